// Upload speed and remaining time.

import { duration, size } from "./format.js";

const WINDOW = 5000;
// Milliseconds before a speed can be measured.
const SETTLE = 400;

/** Speed over the last few seconds. */
export class Speed {
  #samples = [];

  add(bytes, now = performance.now()) {
    this.#samples.push({ bytes, now });
    while (this.#samples.length > 2 && now - this.#samples[1].now > WINDOW) this.#samples.shift();
  }

  /** Bytes per second, or null if it is not known yet. */
  get value() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (!first || last.now - first.now < SETTLE || last.bytes <= first.bytes) return null;
    return ((last.bytes - first.bytes) / (last.now - first.now)) * 1000;
  }

  /** Discards the samples, which are meaningless after a pause. */
  reset() {
    this.#samples = [];
  }
}

/** "12 MB of 300 MB · 45 MB/s · 7 s left" */
export function describe(sent, total, speed) {
  const amount = `${size(sent)} of ${size(total)}`;
  if (speed === null || sent >= total) return amount;
  return `${amount} · ${size(speed)}/s · ${duration((total - sent) / speed)}\u00a0left`;
}
