// A grant in the URL of the page (/g/{grant}/): it allows uploads without an API key, within limits, until it expires.

import { moment } from "./format.js";

/** Whether the URL of the page contains a grant. */
export const granted = /\/g\/[^/]+\/$/.test(location.pathname);

/** The base URL of the service, without the grant. The links of a plan stay valid after the grant has expired. */
export const root = new URL(granted ? "../../" : "./", document.baseURI).href;

// The maximum delay of a timer. It is much longer than the lifetime of a grant.
const MAX_DELAY = 2 ** 31 - 1;

/** Shows when the link expires, and calls `then` at that time. `now` is the time of the service's clock. */
export function showEnd(ends, now, then) {
  const end = new Date(ends);
  const left = end.getTime() - now;
  const line = document.getElementById("grant");
  line.textContent = `This link is valid until ${moment(end)}.`;
  line.hidden = false;
  setTimeout(then, Math.min(Math.max(left, 0), MAX_DELAY));
}

/** Shows that the link is no longer valid, and why. Uploads in progress continue. */
export function close(words) {
  document.getElementById("drop").classList.add("closed");
  document.querySelector(".drop-title").textContent = words;
  for (const element of document.querySelectorAll(".drop-more, #pick, #limits")) element.hidden = true;
  const line = document.getElementById("grant");
  line.textContent = "It can no longer be used to upload images. Ask the person who sent it for a new link.";
  line.hidden = false;
}

/** Why a link is rejected, without the term "grant", which users do not know. */
export function reason(code) {
  return code === "expired_token" ? "This link has expired" : "This link is invalid";
}
