// Uploads with tus-js-client. An upload continues where it stopped, also after a reload of the page.

import * as tus from "tus-js-client";
import { reason, showError, showImage, uploadAddress } from "../image-store.js";

async function start(file) {
  const upload = new tus.Upload(file, {
    endpoint: `${await uploadAddress()}files`,
    metadata: { filename: file.name, filetype: file.type },
    retryDelays: [0, 1000, 3000, 5000, 10000],
    removeFingerprintOnSuccess: true,
    async onSuccess() {
      // The address of the upload returns the image's key and a link to it.
      const image = await (await fetch(upload.url)).json();
      showImage(file.name, image.url);
    },
    onError(error) {
      showError(file.name, reason(error.originalResponse?.getBody()));
    },
  });
  const [previous] = await upload.findPreviousUploads();
  if (previous) upload.resumeFromPreviousUpload(previous);
  upload.start();
}

document.querySelector("#files").addEventListener("change", ({ target }) => {
  for (const file of target.files) start(file).catch((error) => showError(file.name, error.message));
});
