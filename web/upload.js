// The upload of one file: its state, its actions and its upload method.

import { Unacceptable, check } from "./check.js";
import { DirectUpload } from "./direct.js";
import { FormUpload } from "./form.js";
import * as history from "./history.js";
import { link } from "./links.js";
import { Speed } from "./speed.js";
import { thumbnail } from "./thumbnail.js";

// Above this size, a lost connection costs more than the two additional requests of a direct upload.
const DIRECT_ABOVE = 8 << 20;

/** States: queued, sending, waiting (for a connection), verifying, done, failed, canceling, canceled, deleted. */
export class Upload extends EventTarget {
  state = "queued";
  sent = 0;
  image = null;
  url = null;
  problem = null;
  // After cancelling: a message about what may remain, or null if nothing remains.
  left = null;
  speed = new Speed();
  #method;
  #newMethod;
  #control = new AbortController();

  constructor(file, limits) {
    super();
    this.file = file;
    this.name = file.name;
    this.size = file.size;
    const Method = goesDirect(file, limits) ? DirectUpload : FormUpload;
    this.#newMethod = () => new Method(file);
    this.#method = this.#newMethod();
    try {
      check(file, limits);
      // A Blob, or null if the browser cannot decode the file.
      this.thumbnail = thumbnail(file);
    } catch (problem) {
      if (!(problem instanceof Unacceptable)) throw problem;
      this.problem = problem;
      this.state = "failed";
    }
  }

  get active() {
    return ["queued", "sending", "waiting", "verifying"].includes(this.state);
  }

  get canRetry() {
    return !(this.problem instanceof Unacceptable || this.problem?.final);
  }

  async run() {
    const { signal } = this.#control;
    // A cancelled upload stays cancelled, regardless of the response to its last request.
    const become = (state) => signal.aborted || this.#become(state);
    become("sending");
    try {
      const image = await this.#method.run({
        signal,
        onSent: (bytes) => signal.aborted || this.#progress(bytes),
        onSending: () => become("sending"),
        onWaiting: () => become("waiting"),
        onVerifying: () => become("verifying"),
      });
      signal.throwIfAborted();
      await this.#show(image);
    } catch (problem) {
      if (signal.aborted) return;
      this.problem = problem;
      this.#become("failed");
    }
  }

  async cancel() {
    this.#control.abort();
    const method = this.#method;
    // A retry starts from the beginning, while requests of the old method may still be in flight.
    this.#method = this.#newMethod();
    this.#become("canceling");
    this.left = null;
    try {
      const image = await method.abort();
      // The upload was completed first. The image is shown, and can be deleted.
      if (image) return await this.#show(image);
    } catch {
      this.left = method.uncertain;
    }
    this.#become("canceled");
  }

  async #show(image) {
    this.image = image;
    this.url = await link(image);
    this.#become("done");
    history.add(this);
  }

  /** Returns the upload to the queue. A failed method resumes where it stopped. */
  retry() {
    this.#control = new AbortController();
    this.problem = null;
    this.sent = 0;
    this.#become("queued");
  }

  /** Removes what a failed upload left in the store, and the entry of a stored image in this browser's list. */
  async forget() {
    if (this.state === "failed") await this.#method.abort().catch(() => {});
    if (this.image) await history.remove(this.image);
  }

  async delete() {
    await history.deleteImage(this.image);
    this.#become("deleted");
  }

  #progress(bytes) {
    this.sent = bytes;
    this.speed.add(bytes);
    this.dispatchEvent(new Event("progress"));
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    if (state === "waiting") this.speed.reset();
    this.dispatchEvent(new Event("state"));
  }
}

function goesDirect(file, limits) {
  const offered = limits.upload_methods.includes(file.size > limits.direct_put_max ? "multipart" : "put");
  return offered && file.size > Math.min(limits.max_stream_size, DIRECT_ABOVE);
}
