// Direct uploads: a plan from the service, the bytes straight to the store, and a resume where a connection broke.

import { NotTheService, call } from "./api.js";
import { ConnectionLost, pause, reconnected } from "./retry.js";
import { send } from "./xhr.js";

const PARALLEL = 4;
// Failures in a row that brought nothing forward.
const FAILURES = 6;

/** The store did not take what was sent. */
class StoreRefusal extends Error {
  constructor(status, text) {
    const message = /<Message>([^<]+)<\/Message>/.exec(text)?.[1];
    super(`The store did not take it: ${message ?? `it answered ${status}`}.`);
    // 403: the URL has ended, which a fresh one cures.
    this.passes = status === 403 || status === 408 || status === 429 || status >= 500;
    this.ended = status === 403;
  }
}

export class DirectUpload {
  #file;
  #plan = null;
  // What is to be sent, as { number, start, end, url, headers }; and how much of each has left.
  #pieces = [];
  #sent = new Map();
  #stored = 0;

  constructor(file) {
    this.#file = file;
  }

  /** Sends what the store does not have yet; resolves with the stored image. Call again to go on after a failure. */
  async run({ signal, onSent, onWaiting, onSending, onVerifying }) {
    let failures = 0;
    for (;;) {
      const before = this.#stored;
      try {
        await (this.#plan ? this.#ask(signal) : this.#begin(signal));
        onSending();
        onSent(this.#progress());
        await this.#sendPieces(signal, onSent);
        onVerifying();
        return await this.#complete(signal);
      } catch (problem) {
        if (signal.aborted || !this.#recovers(problem)) throw problem;
        failures = this.#stored > before ? 1 : failures + 1;
        if (failures > FAILURES) throw problem;
        onWaiting();
        await reconnected(failures, signal, problem.retryAfter);
      }
    }
  }

  /** What can be said if `abort` fails: a plan that could not be aborted is swept by the service. */
  uncertain = "Canceled. What was sent is removed within a day.";

  /** Leaves nothing at the store. Resolves with the image if it was stored already, else with null. */
  async abort() {
    const plan = this.#plan;
    this.#plan = null;
    while (plan) {
      try {
        // Also while the page is closed.
        await call("DELETE", plan.abort_url, { keepalive: true });
        return null;
      } catch (problem) {
        if (problem.code === "already_complete") return (await call("POST", plan.complete_url)).body;
        if (problem.code !== "verifying") throw problem;
        await pause((problem.retryAfter || 2) * 1000);
      }
    }
    return null;
  }

  #recovers(problem) {
    if (problem instanceof ConnectionLost) return true;
    // Only a multipart plan gets fresh URLs by asking; a single PUT wants a new plan.
    const ended = problem.ended && this.#plan?.kind === "put";
    const gone = ["not_found", "expired_token", "invalid_token"].includes(problem.code) && this.#plan;
    if (ended || gone) this.#plan = null;
    return problem.passes || gone || problem.code === "parts_missing";
  }

  async #begin(signal) {
    const { name, type, size } = this.#file;
    const wish = { filename: name, size, ...(type && { content_type: type }) };
    const { status, body } = await call("POST", "uploads", { json: wish, signal });
    if (!body.complete_url) throw new NotTheService(status);
    this.#plan = body;
    const whole = { part_number: 1, size, url: body.url, headers: body.headers };
    this.#want(body.kind === "put" ? [whole] : body.parts);
  }

  /** Asks what has arrived: what had left when a connection broke may be there. */
  async #ask(signal) {
    const { body } = await call("GET", this.#plan.status_url, { signal });
    if (body.parts) this.#want(body.parts);
    else if (body.state !== "waiting") this.#want([]);
  }

  #want(parts) {
    let start = 0;
    const all = parts.map(({ part_number: number, size, url, headers }) => {
      const piece = { number, start, end: start + size, url, headers };
      start += size;
      return piece;
    });
    this.#pieces = all.filter((piece) => piece.url);
    this.#sent.clear();
    this.#stored = this.#file.size - this.#pieces.reduce((sum, { start, end }) => sum + end - start, 0);
  }

  #progress() {
    let sent = this.#stored;
    for (const bytes of this.#sent.values()) sent += bytes;
    return sent;
  }

  /** A few at once. One that fails does not stop the others' current pieces: what arrives need not be sent again. */
  async #sendPieces(signal, onSent) {
    let problem = null;
    const worker = async () => {
      while (this.#pieces.length > 0 && !problem) {
        const piece = this.#pieces.shift();
        try {
          await this.#sendPiece(piece, signal, onSent);
        } catch (failure) {
          this.#pieces.push(piece);
          this.#sent.delete(piece.number);
          problem ??= failure;
        }
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, worker));
    if (problem) throw problem;
  }

  async #sendPiece({ number, start, end, url, headers }, signal, onSent) {
    const body = this.#file.slice(start, end);
    const progress = (bytes) => {
      this.#sent.set(number, bytes);
      onSent(this.#progress());
    };
    const { status, text } = await send("PUT", url, { headers, body, signal, onSent: progress });
    // 412: it is there already, from a try whose answer was lost.
    if (status !== 200 && status !== 412) throw new StoreRefusal(status, text);
    this.#sent.delete(number);
    this.#stored += end - start;
    onSent(this.#progress());
  }

  async #complete(signal) {
    for (;;) {
      const { status, body, retryAfter } = await call("POST", this.#plan.complete_url, { signal });
      if (status === 200 && body.s3_key) return body;
      if (status !== 202) throw new NotTheService(status);
      await pause((retryAfter || 2) * 1000, signal);
    }
  }
}

