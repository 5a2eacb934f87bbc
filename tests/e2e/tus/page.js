// A page with resumable uploads, bundled for the browser by the test. `window.result` is set at the end of an upload.

import Tus from "@uppy/tus";
import { Uppy } from "@uppy/core";
import * as tus from "tus-js-client";

const retryDelays = [0, 200, 500, 1000, 3000];
const headers = { Accept: "application/json" };

/** Uploads a file with tus-js-client, and continues an upload of the same file from before a reload of the page. */
window.withTus = async (file, endpoint) => {
  const upload = new tus.Upload(file, {
    endpoint,
    retryDelays,
    headers,
    metadata: { filename: file.name, filetype: file.type },
    onSuccess: ({ lastResponse }) => (window.result = { image: JSON.parse(lastResponse.getBody()) }),
    onError: (error) => (window.result = { error: String(error) }),
  });
  const [previous] = await upload.findPreviousUploads();
  if (previous) upload.resumeFromPreviousUpload(previous);
  upload.start();
};

/** Does the same with Uppy. */
window.withUppy = async (file, endpoint) => {
  const uppy = new Uppy().use(Tus, { endpoint, retryDelays, headers });
  uppy.on("upload-success", (_, { body }) => (window.result = { image: JSON.parse(body.xhr.responseText) }));
  uppy.on("upload-error", (_, error) => (window.result = { error: String(error) }));
  uppy.addFile({ name: file.name, type: file.type, data: file });
  await uppy.upload();
};

const input = document.querySelector("input");
input.onchange = () => {
  const parameters = new URLSearchParams(location.search);
  window[parameters.get("with")](input.files[0], parameters.get("endpoint"));
};
