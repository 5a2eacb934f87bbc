// Companion, the server of Uppy, which presigns direct uploads to S3. Only its S3 routes are used.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { app } from "@uppy/companion";
import { bucket, client, listen } from "./s3.js";

const companion = app({
  secret: randomUUID(),
  filePath: tmpdir(),
  server: { host: "127.0.0.1", protocol: "http" },
  corsOrigins: false,
  uploadUrls: [client.endpoint],
  s3: {
    ...client,
    bucket,
    region: process.env.AWS_REGION,
    key: process.env.AWS_ACCESS_KEY_ID,
    secret: process.env.AWS_SECRET_ACCESS_KEY,
  },
});
listen(createServer(companion.app), "companion");
