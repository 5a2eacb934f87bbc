// Thumbnails of local files.

const SIDE = 144;
// A browser decodes the whole image to shrink it. Larger files keep the placeholder.
const LARGEST = 40_000_000;
// One at a time, because decoded images are many times larger than their files.
let last = Promise.resolve();

/** Resolves with a small image as a Blob, or with null if the browser cannot decode the file. */
export function thumbnail(file) {
  if (file.size > LARGEST) return Promise.resolve(null);
  last = last.then(() => draw(file)).catch(() => null);
  return last;
}

async function draw(file) {
  const image = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const scale = Math.max(SIDE / image.width, SIDE / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  image.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
}
