// Shared by the pages of the examples.

/** Requests an address to upload to from this site's backend. It contains the right to upload, and no API key. */
export async function uploadAddress() {
  const response = await fetch("/grant", { method: "POST" });
  if (!response.ok) throw new Error("You are not allowed to upload images.");
  return (await response.json()).url; // https://images.example.com/g/<grant>/
}

/** Returns the reason in the body of an error response, for the user. */
export function reason(body) {
  try {
    return JSON.parse(body).detail;
  } catch {
    return "The upload failed. Try again later.";
  }
}

/** Shows a link to a stored image in the page's list. */
export function showImage(name, url) {
  const link = Object.assign(document.createElement("a"), { href: url, textContent: name });
  list().append(entry(link));
}

/** Shows why an image was not stored in the page's list. */
export function showError(name, message) {
  list().append(entry(`${name}: ${message}`));
}

function list() {
  return document.querySelector("#images");
}

function entry(content) {
  const entry = document.createElement("li");
  entry.append(content);
  return entry;
}
