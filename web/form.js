// The form: one request through the service, for files where a second one is not worth it.

import { NotTheService, headers, parse, refusal } from "./api.js";
import { ConnectionLost, reconnected } from "./retry.js";
import { send } from "./xhr.js";

const FAILURES = 5;

export class FormUpload {
  #file;
  #sentAll = false;

  constructor(file) {
    this.#file = file;
  }

  /** Sends the file; resolves with the stored image. */
  async run({ signal, onSent, onWaiting, onSending, onVerifying }) {
    for (let failures = 1; ; failures += 1) {
      onSending();
      try {
        return await this.#send(signal, onSent, onVerifying);
      } catch (problem) {
        // A body that had left in full may have become an image: sending it again by itself could make a second one.
        const again = problem instanceof ConnectionLost ? !problem.sentAll : problem.status === 503;
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
    const answer = await send("POST", "upload-image", { headers: headers(), body, signal, onSent: progress });
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
