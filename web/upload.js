// One file on its way: its state, what may be done in it, and its upload method.

import { call, link } from "./api.js";
import { DirectUpload } from "./direct.js";
import { FormUpload } from "./form.js";
import { Pace } from "./pace.js";

// Above this a lost connection costs more than the two requests more that a direct upload needs.
const DIRECT_ABOVE = 8 << 20;

/** States: queued, sending, waiting (for a connection), verifying, done, failed, canceling, canceled, deleted. */
export class Upload extends EventTarget {
  state = "queued";
  sent = 0;
  image = null;
  url = null;
  problem = null;
  // Of a canceled one: what may be left of it, in words; null if nothing is.
  left = null;
  pace = new Pace();
  #method;
  #newMethod;
  #control = new AbortController();

  constructor(file, limits) {
    super();
    this.file = file;
    const Method = goesDirect(file, limits) ? DirectUpload : FormUpload;
    this.#newMethod = () => new Method(file);
    this.#method = this.#newMethod();
  }

  get active() {
    return ["queued", "sending", "waiting", "verifying"].includes(this.state);
  }

  async run() {
    const { signal } = this.#control;
    // An upload that was canceled stays so, whatever its last request says.
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
    // A retry starts over, while requests of the old method may still be ending.
    this.#method = this.#newMethod();
    this.#become("canceling");
    this.left = null;
    try {
      const image = await method.abort();
      // It was faster: what is stored is shown, and can be deleted.
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
  }

  /** Back in the queue. A method that failed goes on where it was. */
  retry() {
    this.#control = new AbortController();
    this.problem = null;
    this.sent = 0;
    this.#become("queued");
  }

  /** Gives up what a failed upload left at the store. */
  async forget() {
    if (this.state === "failed") await this.#method.abort().catch(() => {});
  }

  async delete() {
    try {
      await call("DELETE", `delete/${this.image.s3_key}`);
    } catch (problem) {
      // Somebody was faster: that is as good.
      if (problem.status !== 404) throw problem;
    }
    this.#become("deleted");
  }

  #progress(bytes) {
    this.sent = bytes;
    this.pace.add(bytes);
    this.dispatchEvent(new Event("progress"));
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    if (state === "waiting") this.pace.reset();
    this.dispatchEvent(new Event("state"));
  }
}

function goesDirect(file, limits) {
  const offered = limits.upload_methods.includes(file.size > limits.direct_put_max ? "multipart" : "put");
  return offered && file.size > Math.min(limits.max_stream_size, DIRECT_ABOVE);
}
