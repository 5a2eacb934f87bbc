import * as FilePond from "filepond";
import "filepond/dist/filepond.min.css";
import { reason, showImage, uploadAddress } from "../image-store.js";

const server = (address) => ({
  process: {
    url: `${address}upload-image`,
    // An image is stored once, even if the user sends it again because a response was lost.
    headers: (file, metadata) => ({ "Idempotency-Key": `"${metadata.id}"` }),
    onload: (response) => JSON.parse(response).url,
    onerror: (response) => reason(response),
  },
});

const pond = FilePond.create(document.querySelector("#files"), {
  name: "file",
  server: server(""),
  // Shows the service's reason instead of "Error during upload".
  labelFileProcessingError: (error) => error.body,
  // A grant allows uploads, but not deletions.
  allowRevert: false,
  // A new grant for each file, so that the page can stay open for longer than a grant is valid.
  async beforeAddFile(item) {
    item.setMetadata("id", crypto.randomUUID());
    pond.setOptions({ server: server(await uploadAddress()) });
    return true;
  },
});

pond.on("processfile", (error, item) => error || showImage(item.filename, item.serverId));
