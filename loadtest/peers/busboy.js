// An upload service as it is usually written for Node: busboy parses the form, and @aws-sdk/lib-storage streams the
// file to S3. It checks nothing, and answers with the key alone.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { S3Client } from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import busboy from "busboy";
import { bucket, client, listen } from "./s3.js";

const s3 = new S3Client(client);

async function store(file, { mimeType }) {
  const key = `${randomUUID()}.png`;
  await new Upload({ client: s3, params: { Bucket: bucket, Key: key, Body: file, ContentType: mimeType } }).done();
  return key;
}

const server = createServer((request, response) => {
  const answer = (status, body) => {
    const text = JSON.stringify(body);
    response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
    response.end(text);
  };
  const form = busboy({ headers: request.headers });
  form.on("file", (_, file, info) => {
    store(file, info).then(
      (key) => answer(200, { s3_key: key }),
      (error) => answer(500, { detail: String(error) }),
    );
  });
  request.pipe(form);
});
listen(server, "busboy");
