// The queue: starts uploads, and adds up what is left to do.

import { Speed } from "./speed.js";

// Browsers open six connections per host. Two files use them all, because large files are sent in four parts at once.
const AT_ONCE = 2;

/** All uploads of the page. Fires `change` when a state changes, and `progress` when bytes were sent. */
export class Queue extends EventTarget {
  #uploads = new Set();
  // The uploads since the queue was last idle.
  #batch = new Set();
  #speed = new Speed();

  add(upload) {
    this.#uploads.add(upload);
    upload.addEventListener("state", () => this.#next());
    upload.addEventListener("progress", () => this.#progress());
  }

  remove(upload) {
    this.#uploads.delete(upload);
    upload.forget();
    this.#next();
  }

  /** Starts queued uploads. Called after uploads were added. */
  start() {
    this.#next();
  }

  get all() {
    return [...this.#uploads];
  }

  in(...states) {
    return this.all.filter((upload) => states.includes(upload.state));
  }

  get active() {
    return this.all.filter((upload) => upload.active);
  }

  /** The bytes of the current batch, without failed and cancelled uploads. Speed is null if it is not known. */
  get totals() {
    const counted = [...this.#batch].filter((upload) => upload.active || upload.state === "done");
    const sum = (number) => counted.reduce((total, upload) => total + number(upload), 0);
    return {
      count: counted.length,
      done: counted.filter((upload) => upload.state === "done").length,
      size: sum((upload) => upload.size),
      sent: sum((upload) => (upload.state === "done" ? upload.size : upload.sent)),
      speed: this.#speed.value,
    };
  }

  #next() {
    const waiting = this.in("queued");
    const running = this.active.length - waiting.length;
    for (const upload of waiting.slice(0, Math.max(0, AT_ONCE - running))) {
      // Starting an upload fires an event that calls this method again, which may have started the next one already.
      if (upload.state === "queued") upload.run();
    }
    const active = this.active;
    if (active.length === 0) {
      this.#batch.clear();
      this.#speed.reset();
    }
    for (const upload of active) this.#batch.add(upload);
    if (active.some((upload) => upload.state === "waiting")) this.#speed.reset();
    this.dispatchEvent(new Event("change"));
  }

  #progress() {
    this.#speed.add(this.totals.sent);
    this.dispatchEvent(new Event("progress"));
  }
}
