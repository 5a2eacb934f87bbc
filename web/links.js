// Links to images: how long they work, and the forms in which they can be copied.

import { call } from "./api.js";
import { granted, root } from "./grant.js";
import * as key from "./api-key.js";

// Whether images can be read without a key. Null if it is not known yet.
let open = null;

/** Resolves with the link of a new image: the permanent one if images can be read without a key. */
export async function link(image) {
  return (await isOpen(image)) ? permanent(image) : image.url;
}

/** Resolves with a link of an image that was stored earlier, or with null if there is none. */
export async function renewed(image) {
  if (await isOpen(image)) return permanent(image);
  if (key.get()) return (await call("GET", `images/${image.s3_key}/url`)).body.url;
  return expiry(image.url) > Date.now() ? image.url : null;
}

async function isOpen(image) {
  // Without a grant and a key, the service has no keys.
  if (!key.get() && !granted) return true;
  // The response to one image is the same for all.
  open ??= fetch(permanent(image), { method: "HEAD" }).then((answer) => answer.ok, () => false);
  return open;
}

function permanent({ s3_key: name }) {
  return new URL(`images/${name}`, root).href;
}

/** The time at which a presigned link expires, in milliseconds, or null if the link does not expire. */
export function expiry(url) {
  const query = new URL(url, root).searchParams;
  const [, ...date] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(query.get("X-Amz-Date") ?? "") ?? [];
  if (date.length === 0) return null;
  const [year, month, ...rest] = date.map(Number);
  return Date.UTC(year, month - 1, ...rest) + Number(query.get("X-Amz-Expires")) * 1000;
}

/** The forms in which a link is copied. */
export const FORMS = {
  link: ({ url }) => url,
  markdown: ({ url, name }) => `![${name.replaceAll(/[\\[\]]/g, "\\$&")}](${url})`,
  html: ({ url, name, image: { width, height } }) => {
    const sides = width ? ` width="${width}" height="${height}"` : "";
    return `<img src="${escaped(url)}" alt="${escaped(name)}"${sides}>`;
  },
};

function escaped(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replaceAll(/[&<>"]/g, (character) => names[character]);
}
