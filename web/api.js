// The service's own API: requests with the key, answers as JSON, refusals in its words.

import { granted, root } from "./grant.js";
import { ConnectionLost } from "./retry.js";
import * as key from "./api-key.js";

/** A request that was answered with no. The message is for people. */
export class Refusal extends Error {
  constructor(status, body, retryAfter) {
    super(words(status, body));
    this.status = status;
    this.code = body?.code ?? null;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may be answered otherwise a little later. */
  get passes() {
    return FOR_NOW.includes(this.status);
  }
}

/** Something else answered: a proxy, another application. Sending the same again would bring the same. */
export class NotTheService extends Error {
  constructor(status) {
    const why = status === 413 ? "A proxy does not let a file of this size through" : "Is the address of this page right";
    super(`The answer (status ${status}) is not the service's. ${why}${status === 413 ? "." : "?"}`);
  }
}

// What a proxy answers for a service that is not there for the moment.
const FOR_NOW = [408, 429, 500, 502, 503, 504];

function words(status, body) {
  const detail = typeof body?.detail === "string" ? body.detail : `The server answered ${status}.`;
  const seen = body?.detected && !body.limit ? `: this looks like ${body.detected}` : "";
  const hint = typeof body?.hint === "string" ? `. ${body.hint}` : "";
  return seen || hint ? `${detail}${seen}${hint}.` : detail;
}

/** Reads an answer's text; what is no JSON (a proxy's page, say) is no body. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** What an answer without success is; and the key field is shown if a key was missing. */
export function refusal(status, body, retryAfter) {
  if (typeof body?.code !== "string" && !FOR_NOW.includes(status)) return new NotTheService(status);
  if (body?.code === "unauthorized") key.ask();
  return new Refusal(status, body, Number(retryAfter) || 0);
}

/** The headers of every request to the service: the key, and the address of the service, at which its links begin. */
export function headers() {
  return { ...key.headers(), "X-Base-URL": root };
}

/** A route as the page names it goes with the page's grant; a link of the service starts at the service's own address. */
function at(reference) {
  const base = reference.startsWith("/") ? root : document.baseURI;
  return new URL(reference.replace(/^\/+/, ""), base);
}

/** Sends a request, with the key unless it is `open` to anybody; returns its status, body, Retry-After and Date. */
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

/** The stable address of an image, where anybody may read it there; else the link that was signed for an hour or so. */
export async function link(image) {
  const stable = new URL(`images/${image.s3_key}`, root).href;
  if (!key.get() && !granted) return stable;
  const open = await fetch(stable, { method: "HEAD" }).then((answer) => answer.ok, () => false);
  return open ? stable : image.url;
}
