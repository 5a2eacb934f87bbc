// The API key: requested when the service requires one, and stored for this tab. A page with a grant needs no key.

import { granted } from "./grant.js";

const NAME = "image-store.api-key";
const form = document.getElementById("key-form");
const field = document.getElementById("key");
const wrong = document.getElementById("key-wrong");

export function get() {
  return granted ? null : sessionStorage.getItem(NAME);
}

export function headers() {
  const key = get();
  return key ? { "X-API-Key": key } : {};
}

/** Shows the field. Moves the focus there only once, because several uploads may be rejected at the same time. */
export function ask({ focus = true } = {}) {
  if (granted) return;
  if (get() !== null) wrong.hidden = false;
  if (!form.hidden) return;
  form.hidden = false;
  if (focus) field.focus();
}

export function onGiven(then) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(NAME, field.value.trim());
    field.value = "";
    form.hidden = wrong.hidden = true;
    then();
  });
}
