import Dropzone from "dropzone";
import "dropzone/dist/dropzone.css";
import { showImage, uploadAddress } from "../image-store.js";

const dropzone = new Dropzone("#dropzone", {
  // Each file gets an address with a grant of its own before it is uploaded.
  async accept(file, done) {
    try {
      file.address = `${await uploadAddress()}upload-image`;
      done();
    } catch (error) {
      done(error.message);
    }
  },
  url: ([file]) => file.address,
  acceptedFiles: "image/*",
  // Shows the service's reason. (Dropzone's own function shows a field `error`.)
  error(file, response) {
    file.previewElement.classList.add("dz-error");
    file.previewElement.querySelector("[data-dz-errormessage]").textContent = response.detail ?? response;
  },
});

// An image is stored once, even if it is sent again because a response was lost.
dropzone.on("sending", (file, xhr) => xhr.setRequestHeader("Idempotency-Key", `"${file.upload.uuid}"`));
dropzone.on("success", (file, image) => showImage(file.name, image.url));
