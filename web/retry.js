// Lost connections, and delays before retries.

/** No response was received, so the effect of the request is unknown. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection was lost.");
  }
}

/** Resolves after `ms`, or as soon as `event` fires on the window. Rejects when the optional `signal` aborts. */
export function pause(ms, signal, event) {
  return new Promise((resolve, reject) => {
    const timer = ms === null ? null : setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      if (event) removeEventListener(event, done);
      signal?.removeEventListener("abort", stop);
      resolve();
    }
    function stop() {
      clearTimeout(timer);
      if (event) removeEventListener(event, done);
      reject(signal.reason);
    }
    if (signal?.aborted) return stop();
    signal?.addEventListener("abort", stop, { once: true });
    if (event) addEventListener(event, done, { once: true });
  });
}

/** Waits before a retry: until the browser is online again, or with exponential backoff. */
export async function reconnected(failures, signal, atLeast = 0) {
  if (!navigator.onLine) return pause(null, signal, "online");
  const seconds = Math.max(atLeast, Math.min(30, 2 ** (failures - 1)));
  return pause(seconds * 1000, signal, "online");
}
