// Direct uploads: requests a plan from the service, sends the file to the store, and resumes after lost connections.

import { NotTheService, call } from "./api.js";
import { granted } from "./grant.js";
import { ConnectionLost, pause, reconnected } from "./retry.js";
import { send } from "./xhr.js";

const PARALLEL = 4;
// Maximum number of consecutive failures without progress.
const FAILURES = 6;
// Number of bytes that are compared at once.
const CHUNK = 1 << 20;

/** The store rejected a request. */
class StoreRefusal extends Error {
  constructor(status, text) {
    const message = /<Message>([^<]+)<\/Message>/.exec(text)?.[1];
    super(`The store rejected the upload: ${message ?? `status ${status}`}.`);
    // 403: the URL has expired, and a new one is required.
    this.passes = status === 403 || status === 408 || status === 429 || status >= 500;
    this.ended = status === 403;
  }
}

/** The image of the key is another file. */
class AnotherFile extends Error {
  constructor() {
    super("Another file was already uploaded with this link.");
  }
}

export class DirectUpload {
  #file;
  #plan = null;
  // The pieces to send, as { number, start, end, url, headers }, and the number of bytes sent of each.
  #pieces = [];
  #sent = new Map();
  #stored = 0;
  // Whether the store confirmed that the object of a single PUT is this file.
  #confirmed = false;

  constructor(file) {
    this.#file = file;
  }

  /** Sends what the store does not have yet. Resolves with the stored image. Call it again to resume after a failure. */
  async run({ signal, onSent, onWaiting, onSending, onVerifying }) {
    let failures = 0;
    for (;;) {
      const before = this.#stored;
      try {
        await (this.#plan ? this.#updateStatus(signal) : this.#createPlan(signal));
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

  /** The message if `abort` fails. The sweep removes uploads that could not be aborted. */
  uncertain = "Cancelled. The data that was sent will be removed within a day.";

  /** Removes everything from the store. Resolves with the image if it was stored already, otherwise with null. */
  async abort() {
    const plan = this.#plan;
    this.#plan = null;
    while (plan) {
      try {
        // Completes even if the page is being closed.
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
    // New URLs can be requested for a multipart plan only. A single PUT requires a new plan.
    const ended = problem.ended && this.#plan?.kind === "put";
    const gone = ["not_found", "expired_token", "invalid_token"].includes(problem.code) && this.#plan;
    if (ended || gone) this.#plan = null;
    return problem.passes || gone || problem.code === "parts_missing";
  }

  async #createPlan(signal) {
    const { name, type, size } = this.#file;
    const request = { filename: name, size, ...(type && { content_type: type }) };
    const { status, body } = await call("POST", "uploads", { json: request, signal });
    if (!body.complete_url) throw new NotTheService(status);
    this.#plan = body;
    this.#confirmed = body.kind !== "put";
    const whole = { part_number: 1, size, url: body.url, headers: body.headers };
    this.#setPieces(body.kind === "put" ? [whole] : body.parts);
  }

  /** Requests the status, because data may have arrived although the connection was lost. */
  async #updateStatus(signal) {
    const { body } = await call("GET", this.#plan.status_url, { signal });
    if (body.parts) this.#setPieces(body.parts);
    else if (body.state !== "waiting") this.#setPieces([]);
  }

  #setPieces(parts) {
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

  /** Sends pieces concurrently. A failure does not stop other pieces in flight, so that they need not be sent again. */
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
    // 412: the object exists already, usually from an attempt whose response was lost.
    if (status !== 200 && status !== 412) throw new StoreRefusal(status, text);
    this.#confirmed ||= status === 200;
    this.#sent.delete(number);
    this.#stored += end - start;
    onSent(this.#progress());
  }

  async #complete(signal) {
    for (;;) {
      const { status, body, retryAfter } = await call("POST", this.#plan.complete_url, { signal });
      if (status === 200 && body.s3_key) {
        // With a grant for one key, another page may have uploaded its file.
        if (granted && !this.#confirmed && !(await this.#isFile(body.url, signal))) throw new AnotherFile();
        return body;
      }
      if (status !== 202) throw new NotTheService(status);
      await pause((retryAfter || 2) * 1000, signal);
    }
  }

  /** Whether the object at `url` has the same bytes as the file. */
  async #isFile(url, signal) {
    const stored = await fetch(url, { signal }).then((answer) => answer.blob()).catch((problem) => {
      throw signal.aborted ? problem : new ConnectionLost();
    });
    if (stored.size !== this.#file.size) return false;
    for (let at = 0; at < stored.size; at += CHUNK) {
      const chunks = [stored, this.#file].map((blob) => blob.slice(at, at + CHUNK).arrayBuffer());
      const [there, here] = (await Promise.all(chunks)).map((buffer) => new Uint8Array(buffer));
      if (!there.every((byte, index) => byte === here[index])) return false;
    }
    return true;
  }
}

