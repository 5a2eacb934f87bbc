// A request with a large body. Uses XMLHttpRequest, because fetch does not report upload progress.

import { ConnectionLost } from "./retry.js";

// Milliseconds without progress after which a connection is considered lost.
const STALL = 45_000;
// The browser sets these itself, and logs an error if a script does.
const FORBIDDEN = new Set(["content-length", "host"]);

/** Resolves with the status, the text and a function that reads headers, regardless of the status. */
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
      // The body was sent completely. The server has its own time limits.
      clearTimeout(watchdog);
    };
    request.onerror = () => end(reject, new ConnectionLost());
    request.onload = () => {
      // Headers are read on demand, because the store exposes only a few and the browser logs an error for all others.
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
