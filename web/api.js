// The client of the service's API: requests with the API key, responses as JSON, errors with the service's texts.

import { alternatives } from "./format.js";
import { root } from "./grant.js";
import { ConnectionLost } from "./retry.js";
import * as key from "./api-key.js";

/** A request that the service rejected. The message is shown to people. */
export class Refusal extends Error {
  constructor(status, body, retryAfter) {
    super(words(status, body));
    this.status = status;
    this.code = body?.code ?? null;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get passes() {
    return TEMPORARY.includes(this.status);
  }

  /** Whether the file itself was rejected, so that a retry would not help. */
  get final() {
    return OF_THE_FILE.includes(this.code);
  }
}

/** The response is not from the service, but from a proxy or another application. A retry would not help. */
export class NotTheService extends Error {
  constructor(status) {
    const why = status === 413 ? "A proxy may limit the size of requests" : "Check the address of this page";
    super(`The response (status ${status}) is not the service's. ${why}.`);
  }
}

// Statuses of temporary errors, including those that proxies return while the service is unavailable.
const TEMPORARY = [408, 429, 500, 502, 503, 504];
// Codes of errors that the same file causes again.
const OF_THE_FILE = ["invalid_file_type", "no_file", "payload_too_large", "too_many_pixels"];

function words(status, body) {
  // The service's own text names the headers, for programs.
  if (body?.code === "unauthorized") return "An API key is required.";
  if (typeof body?.detail !== "string") return `The server returned status ${status}.`;
  const { detail, detected, limit, hint, accepted } = body;
  const sentences = [detected && !limit ? `${detail}: this looks like ${detected}` : detail];
  if (typeof hint === "string") sentences.push(hint);
  if (Array.isArray(accepted) && !limit) sentences.push(`Accepted: ${alternatives(accepted.map((name) => name.toUpperCase()))}`);
  return sentences.length > 1 ? `${sentences.join(". ")}.` : sentences[0];
}

/** Parses the text of a response. Returns null if it is not JSON, as with a proxy's error page. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Returns the error for an unsuccessful response. Shows the key field if an API key is required. */
export function refusal(status, body, retryAfter) {
  if (typeof body?.code !== "string" && !TEMPORARY.includes(status)) return new NotTheService(status);
  if (body?.code === "unauthorized") key.ask();
  return new Refusal(status, body, Number(retryAfter) || 0);
}

/** The headers of every request to the service: the API key, and the base URL for the links in its responses. */
export function headers() {
  return { ...key.headers(), "X-Base-URL": root };
}

/** Resolves a route relative to the page, which includes its grant, and a link of the service relative to its root. */
function at(reference) {
  const base = reference.startsWith("/") ? root : document.baseURI;
  return new URL(reference.replace(/^\/+/, ""), base);
}

/** Sends a request, with the API key unless the route is `open`. Returns the status, body, Retry-After and Date. */
export async function call(method, path, { json, signal, keepalive, open } = {}) {
  const sent = open ? {} : headers();
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let response, text;
  try {
    const body = json === undefined ? undefined : JSON.stringify(json);
    response = await fetch(at(path), { method, headers: sent, body, signal, keepalive, cache: "no-store" });
    text = await response.text();
  } catch (problem) {
    if (signal?.aborted) throw signal.reason;
    throw problem instanceof TypeError ? new ConnectionLost() : problem;
  }
  const retryAfter = response.headers.get("Retry-After");
  const body = parse(text);
  if (!response.ok) throw refusal(response.status, body, retryAfter);
  if (response.status !== 204 && (body === null || typeof body !== "object")) throw new NotTheService(response.status);
  const date = Date.parse(response.headers.get("Date") ?? "") || Date.now();
  return { status: response.status, body, retryAfter: Number(retryAfter) || 0, date };
}
