// Uploads a form with axios, with progress, and again if the connection is lost.

import axios from "axios";
import { showError, showImage, uploadAddress } from "../image-store.js";

async function upload(file, onUploadProgress) {
  const form = new FormData();
  form.append("file", file);
  // All attempts have the same value, so the image is stored once even if only a response was lost.
  const headers = { "Idempotency-Key": `"${crypto.randomUUID()}"` };
  const address = await uploadAddress();
  for (let attempt = 1; ; attempt++) {
    try {
      return (await axios.post(`${address}upload-image`, form, { headers, onUploadProgress })).data;
    } catch (error) {
      // A rejected image (4xx) is not sent again.
      const mayPass = !error.response || error.response.status >= 500;
      if (!mayPass || attempt === 4) throw new Error(error.response?.data.detail ?? error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000 * attempt));
    }
  }
}

document.querySelector("#files").addEventListener("change", async ({ target }) => {
  for (const file of target.files) {
    try {
      const image = await upload(file, ({ progress }) => (document.title = `${Math.round(progress * 100)} %`));
      showImage(file.name, image.url);
    } catch (error) {
      showError(file.name, error.message);
    }
  }
});
