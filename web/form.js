// The form: one request through the service, for files where a second one is not worth it.

import { NotTheService, headers, parse, refusal } from "./api.js";
import { ConnectionLost, reconnected } from "./retry.js";
import { send } from "./xhr.js";

const FAILURES = 5;
// A gateway's answers when it has lost the service's own, and the service's when it has no room.
const SENT_AGAIN = [502, 503, 504];

export class FormUpload {
  #file;
  #sentAll = false;
  // The same for every attempt: the service stores the image once, however often the form arrives.
  #idempotencyKey = `"${randomHex(16)}"`;

  constructor(file) {
    this.#file = file;
  }

  /** Sends the file; resolves with the stored image. Call again to go on after a failure. */
  async run({ signal, onSent, onWaiting, onSending, onVerifying }) {
    for (let failures = 1; ; failures += 1) {
      onSending();
      try {
        return await this.#send(signal, onSent, onVerifying);
      } catch (problem) {
        const again = problem instanceof ConnectionLost || SENT_AGAIN.includes(problem.status);
        if (!again || failures > FAILURES) throw problem;
        onWaiting();
        await reconnected(failures, signal, problem.retryAfter);
      }
    }
  }

  async #send(signal, onSent, onVerifying) {
    const body = new FormData();
    body.append("file", this.#file, this.#file.name);
    // The form is a little longer than its file.
    const progress = (bytes) => {
      onSent(Math.min(bytes, this.#file.size));
      this.#sentAll = bytes >= this.#file.size;
      if (this.#sentAll) onVerifying();
    };
    const sent = { ...headers(), "Idempotency-Key": this.#idempotencyKey };
    const answer = await send("POST", "upload-image", { headers: sent, body, signal, onSent: progress });
    const image = parse(answer.text);
    if (answer.status !== 200) throw refusal(answer.status, image, answer.header("Retry-After"));
    if (!image?.s3_key) throw new NotTheService(answer.status);
    return image;
  }

  /** What can be said if `abort` fails. */
  uncertain = "Canceled, but it may have been stored already.";

  /** Nothing to undo: the service forgets a form whose client leaves before its end. */
  async abort() {
    if (this.#sentAll) throw new Error("the form had been sent in full");
    return null;
  }
}

/** crypto.randomUUID is for pages of secure origins only. */
function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
