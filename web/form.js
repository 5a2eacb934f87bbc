// Form uploads: one request through the service, for small files.

import { NotTheService, headers, parse, refusal } from "./api.js";
import { ConnectionLost, reconnected } from "./retry.js";
import { send } from "./xhr.js";

const FAILURES = 5;
// Statuses of gateways that lost the service's response, and of the service when it is at capacity.
const RETRYABLE = [502, 503, 504];

export class FormUpload {
  #file;
  #sentAll = false;
  // The same for every attempt, so that the service stores the image only once.
  #idempotencyKey = `"${randomHex(16)}"`;

  constructor(file) {
    this.#file = file;
  }

  /** Sends the file. Resolves with the stored image. Call it again to retry after a failure. */
  async run({ signal, onSent, onWaiting, onSending, onVerifying }) {
    for (let failures = 1; ; failures += 1) {
      onSending();
      try {
        return await this.#send(signal, onSent, onVerifying);
      } catch (problem) {
        const again = problem instanceof ConnectionLost || RETRYABLE.includes(problem.status);
        if (!again || failures > FAILURES) throw problem;
        onWaiting();
        await reconnected(failures, signal, problem.retryAfter);
      }
    }
  }

  async #send(signal, onSent, onVerifying) {
    const body = new FormData();
    body.append("file", this.#file, this.#file.name);
    // The form is slightly larger than the file.
    const progress = (bytes) => {
      onSent(Math.min(bytes, this.#file.size));
      const sentAll = bytes >= this.#file.size;
      // An earlier attempt that was sent in full may be stored.
      this.#sentAll ||= sentAll;
      if (sentAll) onVerifying();
    };
    const sent = { ...headers(), "Idempotency-Key": this.#idempotencyKey };
    const answer = await send("POST", "upload-image", { headers: sent, body, signal, onSent: progress });
    const image = parse(answer.text);
    if (answer.status !== 200) throw refusal(answer.status, image, answer.header("Retry-After"));
    if (!image?.s3_key) throw new NotTheService(answer.status);
    return image;
  }

  /** The message if `abort` fails. */
  uncertain = "Cancelled, but the image may already have been stored.";

  /** Nothing to undo, because the service discards an incomplete form when the client disconnects. */
  async abort() {
    if (this.#sentAll) throw new Error("the form was already sent completely");
    return null;
  }
}

/** crypto.randomUUID is for pages of secure origins only. */
function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
