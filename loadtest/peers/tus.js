// tus-node-server with its S3 store.

import { S3Store } from "@tus/s3-store";
import { Server } from "@tus/server";
import { bucket, client, listen } from "./s3.js";

// Parts are sent from files. The SDK would send them without Content-Length, which the null S3 does not support, if it
// computed their checksums.
const s3ClientConfig = { ...client, bucket, requestChecksumCalculation: "WHEN_REQUIRED" };
const server = new Server({ path: "/files", datastore: new S3Store({ s3ClientConfig }) });
listen(server, "tus");
