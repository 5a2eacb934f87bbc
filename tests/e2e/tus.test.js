// Resumable uploads with tus-js-client in Node.js: interrupted in several ways, resumed, and compared byte for byte.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import * as tus from "tus-js-client";
import { Interruptible, PART } from "./interruptions.js";
import { MIB, sameBytes, until } from "./support.js";

let service;
before(async () => (service = await Interruptible.start()));
after(() => service.stop());

/** An upload that records its requests. `done` resolves to the service's JSON, or rejects. */
function start(file, options = {}, source = createReadStream(file)) {
  const requests = [];
  const upload = { requests };
  upload.done = new Promise((onSuccess, onError) => {
    upload.tus = new tus.Upload(source, {
      endpoint: `${service.url}/files`,
      retryDelays: [0, 100, 300, 1000, 3000],
      headers: { Accept: "application/json" },
      metadata: { filename: path.basename(file), filetype: "image/png" },
      onAfterResponse: (request, response) =>
        void requests.push({ method: request.getMethod(), status: response.getStatus(), offset: Number(response.getHeader("Upload-Offset")) }),
      onSuccess: ({ lastResponse }) => onSuccess(lastResponse.getBody()),
      onError,
      ...options,
    });
    upload.tus.start();
  });
  return upload;
}

/** Asserts that the upload succeeds and that the stored image is the file. */
async function stored(upload, file) {
  const image = JSON.parse(await upload.done);
  await sameBytes(image.url, file);
  assert.deepEqual(await service.leftovers(), []);
  return image;
}

/** Returns the offsets at which the client resumed. */
function resumed(upload) {
  return upload.requests.filter(({ method, status }) => method === "HEAD" && status === 200).map(({ offset }) => offset);
}

test("a file is uploaded in one PATCH", async () => {
  const file = await service.png("one.png", 12 * MIB);
  const upload = start(file);
  const image = await stored(upload, file);
  assert.equal(image.content_type, "image/png");
  assert.deepEqual(upload.requests.map(({ method, status }) => [method, status]), [["POST", 201], ["PATCH", 200]]);
});

test("an upload continues after its connection was cut", async () => {
  const file = await service.png("cut.png", 17 * MIB);
  const upload = await service.stallAfterParts(2, () => start(file));
  service.proxy.cut();
  await stored(upload, file);
  const [offset] = resumed(upload);
  // What the service had received beyond the whole parts counts, too.
  assert.ok(offset >= 2 * PART && offset <= 13 * MIB, `resumed at ${offset}`);
});

test("an upload continues after the service was killed and restarted", async () => {
  const file = await service.png("killed.png", 17 * MIB);
  const upload = await service.stallAfterParts(2, () => start(file, { retryDelays: [0, 300, 1000, 3000, 5000] }));
  await service.killAndRestart();
  await stored(upload, file);
  assert.equal(resumed(upload).at(-1), 2 * PART);
});

test("chunks may be smaller than the parts in the store", async () => {
  const file = await service.png("chunks.png", 11 * MIB);
  const upload = start(file, { chunkSize: 4_000_000 });
  await stored(upload, file);
  const offsets = upload.requests.filter(({ method }) => method === "PATCH").map(({ offset }) => offset);
  assert.deepEqual(offsets, [4_000_000, 8_000_000, 11 * MIB]);
});

test("the length may follow the data", async () => {
  const file = await service.png("deferred.png", 11 * MIB);
  // The client knows the size of a file, but not that of another stream.
  const source = createReadStream(file).pipe(new PassThrough());
  await stored(start(file, { uploadLengthDeferred: true, chunkSize: 4 * MIB }, source), file);
});

test("the creation may contain data", async () => {
  const file = await service.png("creation.png", 7 * MIB);
  const whole = start(file, { uploadDataDuringCreation: true });
  await whole.done;
  assert.deepEqual(whole.requests.map(({ method }) => method), ["POST"]);
  const [first] = await Promise.all([start(file, { uploadDataDuringCreation: true, chunkSize: 4 * MIB })]);
  await stored(first, file);
  assert.deepEqual(first.requests.map(({ method }) => method), ["POST", "PATCH"]);
});

test("PATCH may be sent as POST", async () => {
  const file = await service.png("override.png", 6 * MIB);
  const upload = start(file, { overridePatchMethod: true });
  await stored(upload, file);
  assert.deepEqual(upload.requests.map(({ method }) => method), ["POST", "POST"]);
});

test("an aborted upload leaves nothing", async () => {
  const file = await service.png("aborted.png", 17 * MIB);
  const upload = await service.stallAfterParts(1, () => start(file));
  const { url } = upload.tus;
  await upload.tus.abort();
  service.proxy.cut();
  await tus.Upload.terminate(url, { retryDelays: [0, 1000] });
  const head = await fetch(url, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
  assert.equal(head.status, 410);
  await until("nothing is left", async () => (await service.leftovers()).length === 0);
});

test("other files are rejected and not sent again", async () => {
  const file = path.join(service.folder, "text.png");
  await writeFile(file, "This is no image. ".repeat(100_000));
  const upload = start(file);
  const error = await upload.done.then(() => assert.fail("accepted"), (error) => error);
  assert.equal(error.originalResponse.getStatus(), 400);
  assert.equal(JSON.parse(error.originalResponse.getBody()).code, "invalid_file_type");
  assert.deepEqual(upload.requests.map(({ method }) => method), ["POST", "PATCH"]);
  assert.deepEqual(await service.leftovers(), []);
});
