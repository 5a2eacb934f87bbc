// Uploads with tus-js-client. After a lost connection, an upload continues where it stopped. After a reload of the page, it
// continues when the user chooses the same file again.

import * as tus from "tus-js-client";
import { reason, showError, showImage, uploadAddress } from "../image-store.js";

async function start(file) {
  const upload = new tus.Upload(file, {
    endpoint: `${await uploadAddress()}files`,
    metadata: { filename: file.name, filetype: file.type },
    retryDelays: [0, 1000, 3000, 5000, 10000],
    // By default, a fingerprint contains the endpoint, and therefore a grant that no later upload has.
    fingerprint: async () => [file.name, file.type, file.size, file.lastModified].join("-"),
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
