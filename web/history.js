// What this browser has uploaded here: kept in IndexedDB, so that it is still listed after a reload.

import { call } from "./api.js";
import { granted, root } from "./grant.js";
import { renewed } from "./links.js";

// Links that are mailed have a list of their own, apart from that of the page itself.
const SCOPE = granted ? `${root}g/` : root;
// Older entries are removed.
const MOST = 500;

const store = new Promise((resolve) => {
  const request = indexedDB.open("image-store", 1);
  request.onupgradeneeded = () => {
    const images = request.result.createObjectStore("images", { keyPath: "id", autoIncrement: true });
    images.createIndex("image", ["scope", "s3_key"], { unique: true });
    images.createIndex("scope", "scope");
  };
  request.onsuccess = () => resolve(request.result);
  // Some browsers have no database in private windows. The page works without it.
  request.onerror = () => resolve(null);
});

/** Calls `act` with the object store, and resolves with the result of its request when it is durable. */
async function transact(mode, act) {
  const database = await store;
  if (!database) return null;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction("images", mode);
    const request = act(transaction.objectStore("images"));
    transaction.oncomplete = () => resolve(request?.result ?? null);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  }).catch(() => null);
}

/** Adds a stored image at once, and its thumbnail when there is one. */
export async function add({ name, image, thumbnail }) {
  const { s3_key, content_type, size, width, height, url } = image;
  const entry = { scope: SCOPE, s3_key, name, content_type, size, width, height, url, thumbnail: null };
  const id = await transact("readwrite", (images) => images.add(entry));
  const blob = await thumbnail;
  if (!id || !blob) return;
  await transact("readwrite", (images) => {
    const found = images.get(id);
    // It may have been removed meanwhile.
    found.onsuccess = () => found.result && images.put({ ...found.result, thumbnail: blob });
    return found;
  });
}

export async function remove({ s3_key: key }) {
  await transact("readwrite", (images) => {
    const found = images.index("image").getKey([SCOPE, key]);
    found.onsuccess = () => found.result !== undefined && images.delete(found.result);
    return found;
  });
}

/** Resolves with the uploads of earlier visits, the newest first. */
export async function restored() {
  const entries = (await transact("readonly", (images) => images.index("scope").getAll(SCOPE))) ?? [];
  for (const old of entries.splice(0, Math.max(0, entries.length - MOST))) remove(old);
  return entries.reverse().map((entry) => new StoredUpload(entry));
}

/** An image that was uploaded in an earlier visit. It has the properties of an `Upload` in the state `done`. */
export class StoredUpload extends EventTarget {
  state = "done";
  active = false;
  url = null;

  constructor({ name, thumbnail, ...image }) {
    super();
    Object.assign(this, { name, thumbnail, image, size: image.size, sent: image.size });
  }

  /** Requests the link. It is null if none is valid any more. */
  async renew() {
    try {
      this.url = await renewed(this.image);
    } catch (problem) {
      // The image was deleted elsewhere.
      if (problem.status === 404) return this.#become("deleted");
    }
    this.dispatchEvent(new Event("state"));
  }

  async delete() {
    await deleteImage(this.image);
    this.#become("deleted");
  }

  async forget() {
    await remove(this.image);
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

/** Deletes an image from the service and from the list. */
export async function deleteImage(image) {
  try {
    await call("DELETE", `images/${image.s3_key}`);
  } catch (problem) {
    // The image is already deleted.
    if (problem.status !== 404) throw problem;
  }
  await remove(image);
}
