// Upload speed and remaining time, and the formatting of numbers for people.

const WINDOW = 5000;
// Milliseconds before a speed can be measured.
const SETTLE = 400;

/** Speed over the last few seconds. */
export class Pace {
  #samples = [];

  add(bytes, now = performance.now()) {
    this.#samples.push({ bytes, now });
    while (this.#samples.length > 2 && now - this.#samples[1].now > WINDOW) this.#samples.shift();
  }

  /** Bytes per second, or null if it is not known yet. */
  get speed() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (!first || last.now - first.now < SETTLE || last.bytes <= first.bytes) return null;
    return ((last.bytes - first.bytes) / (last.now - first.now)) * 1000;
  }

  /** Discards the samples, which are meaningless after a pause. */
  reset() {
    this.#samples = [];
  }
}

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  // No line break between a number and its unit.
  return `${value.toFixed(digits)}\u00a0${units[unit]}`;
}

export function duration(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  return `${Math.floor(whole / 3600)}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min`;
}

/** "12 MB of 300 MB · 45 MB/s · 7 s left" */
export function describe(sent, total, speed) {
  const amount = `${size(sent)} of ${size(total)}`;
  if (speed === null || sent >= total) return amount;
  return `${amount} · ${size(speed)}/s · ${duration((total - sent) / speed)}\u00a0left`;
}
