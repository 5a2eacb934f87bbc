// One request with a large body. XMLHttpRequest, because fetch does not say how much has been sent.

import { ConnectionLost } from "./retry.js";

// A connection may be dead without a word; while it is alive, bytes leave more often than this.
const STALL = 45_000;
// The browser sets these itself, and says so loudly when a script tries.
const FORBIDDEN = new Set(["content-length", "host"]);

/** Resolves with status, text and a reader of headers, whatever the status. */
export function send(method, url, { headers = {}, body, signal, onSent }) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const request = new XMLHttpRequest();
    let watchdog = setTimeout(stalled, STALL);

    function stalled() {
      end(reject, new ConnectionLost());
      request.abort();
    }
    function stop() {
      end(reject, signal.reason);
      request.abort();
    }
    function end(settle, value) {
      clearTimeout(watchdog);
      signal.removeEventListener("abort", stop);
      settle(value);
    }
    signal.addEventListener("abort", stop, { once: true });

    request.upload.onprogress = (event) => {
      clearTimeout(watchdog);
      watchdog = setTimeout(stalled, STALL);
      onSent(event.loaded);
    };
    request.upload.onload = () => {
      // From here on the server works; it has its own limits.
      clearTimeout(watchdog);
    };
    request.onerror = () => end(reject, new ConnectionLost());
    request.onload = () => {
      // Headers only when asked for: the store shows few of them, and the browser complains of a look at any other.
      const header = (name) => request.getResponseHeader(name);
      end(resolve, { status: request.status, text: request.responseText, header });
    };

    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) {
      if (!FORBIDDEN.has(name.toLowerCase())) request.setRequestHeader(name, value);
    }
    request.send(body);
  });
}
