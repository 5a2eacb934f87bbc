import AwsS3 from "@uppy/aws-s3";
import Uppy from "@uppy/core";
import Dashboard from "@uppy/dashboard";
import GoldenRetriever from "@uppy/golden-retriever";
import "@uppy/core/css/style.min.css";
import "@uppy/dashboard/css/style.min.css";
import { reason, showError, showImage, uploadAddress } from "../image-store.js";

const uppy = new Uppy({ restrictions: { allowedFileTypes: ["image/*"] } })
  .use(Dashboard, { target: "#uppy", inline: true })
  // Keeps files of up to 100 MiB in the browser, to resume their uploads after a reload of the page.
  .use(GoldenRetriever, { indexedDB: { maxFileSize: 100 * 2 ** 20 } })
  .use(AwsS3, {
    // Uppy keeps this address, so the grant must be valid for as long as the page is used.
    companionEndpoint: (await uploadAddress()).slice(0, -1),
    // Large files are sent directly to S3, in parts. Smaller ones are sent through the service.
    shouldUseMultipart: (file) => file.size > 10 * 2 ** 20,
  });

uppy.on("upload-success", (file, { uploadURL }) => showImage(file.name, uploadURL));
// `error.request` is the request of a rejected form.
uppy.on("upload-error", (file, error) => {
  showError(file.name, error.request ? reason(error.request.responseText) : error.message);
});
