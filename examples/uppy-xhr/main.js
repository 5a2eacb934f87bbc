import Uppy from "@uppy/core";
import Dashboard from "@uppy/dashboard";
import XHRUpload from "@uppy/xhr-upload";
import "@uppy/core/css/style.min.css";
import "@uppy/dashboard/css/style.min.css";
import { reason, showError, showImage, uploadAddress } from "../image-store.js";

const uppy = new Uppy({ restrictions: { allowedFileTypes: ["image/*"] } })
  .use(Dashboard, { target: "#uppy", inline: true })
  .use(XHRUpload, {
    // Each file is sent to an address with a grant of its own.
    endpoint: async () => `${await uploadAddress()}upload-image`,
    allowedMetaFields: [],
    // All attempts have the same value, so the image is stored once even if only a response was lost.
    headers: (file) => ({ "Idempotency-Key": `"${file.meta.uploadId}"` }),
    // A rejected image (4xx) is not sent again, and the user sees the reason.
    shouldRetry: (xhr) => xhr.status === 0 || xhr.status >= 500,
    onAfterResponse(xhr) {
      if (xhr.status >= 400) throw new Error(reason(xhr.responseText));
    },
  });

uppy.on("file-added", (file) => uppy.setFileMeta(file.id, { uploadId: crypto.randomUUID() }));
uppy.on("upload-success", (file, response) => showImage(file.name, response.uploadURL));
uppy.on("upload-error", (file, error) => showError(file.name, error.message));
