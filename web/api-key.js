// The API key: asked for when the service wants one, kept for this tab.

const NAME = "image-store.api-key";
const form = document.getElementById("key-form");
const field = document.getElementById("key");

export function get() {
  return sessionStorage.getItem(NAME);
}

export function headers() {
  const key = get();
  return key ? { "X-API-Key": key } : {};
}

/** Shows the field. Moves the focus there only the first time: several uploads may be refused at once. */
export function ask() {
  if (!form.hidden) return;
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
