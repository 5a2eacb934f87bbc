// Checks of a file before it is sent. The service checks the same again, and the bytes of the image.

import { alternatives, limit, size } from "./format.js";

/** A file that the service would reject. A retry would not help. */
export class Unacceptable extends Error {}

/** Throws `Unacceptable` if the file is empty, too large, or of a type that is not accepted. */
export function check(file, { formats, max_upload_size: largest }) {
  if (file.size === 0) throw new Unacceptable("This file is empty.");
  if (file.size > largest) {
    throw new Unacceptable(`This file is too large: ${size(file.size)}. At most ${limit(largest)} are accepted.`);
  }
  const [, extension] = /\.([^.]+)$/.exec(file.name) ?? [];
  const accepted = formats.flatMap((format) => format.extensions);
  if (extension && !accepted.includes(extension.toLowerCase())) {
    const names = formats.map((format) => format.name.toUpperCase());
    throw new Unacceptable(`This type of file is not accepted. Accepted: ${alternatives(names)}.`);
  }
}
