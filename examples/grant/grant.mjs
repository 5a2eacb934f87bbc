// Prints an address at which a browser may upload images. A backend calls uploadAddress() for its signed-in user.
// Run it: npm install jsonwebtoken, then node grant.mjs

import { createHash, randomUUID } from "node:crypto";
import jwt from "jsonwebtoken";

const { IMAGE_STORE_URL: store, IMAGE_STORE_API_KEY: key } = process.env;
// A grant is signed with the SHA-256 of an API key. Both stay on the server.
const secret = createHash("sha256").update(key).digest();

/** Returns an address at which `user` may upload images for one hour. */
export function uploadAddress(user, limits = {}) {
  const claims = {
    aud: "image-store",
    jti: randomUUID(),
    max_size: 100_000_000,
    formats: ["jpeg", "png"],
    metadata: { user }, // is stored with each image
    ...limits,
  };
  return `${store}/g/${jwt.sign(claims, secret, { algorithm: "HS256", expiresIn: "1h" })}/`;
}

if (process.argv[1] === import.meta.filename) console.log(uploadAddress("user-42"));
