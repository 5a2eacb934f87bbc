// The API key: asked for when the service wants one, kept for this tab. A page with a grant needs none.

import { granted } from "./grant.js";

const NAME = "image-store.api-key";
const form = document.getElementById("key-form");
const field = document.getElementById("key");

export function get() {
  return granted ? null : sessionStorage.getItem(NAME);
}

export function headers() {
  const key = get();
  return key ? { "X-API-Key": key } : {};
}

/** Shows the field. Moves the focus there only the first time: several uploads may be refused at once. */
export function ask() {
  if (granted || !form.hidden) return;
  form.hidden = false;
  field.focus();
}

export function onGiven(then) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(NAME, field.value.trim());
    field.value = "";
    form.hidden = true;
    then();
  });
}
