// The settings that all programs in this folder share.

export const bucket = process.env.S3_BUCKET;

/** The endpoint, the region and the credentials come from the environment. */
export const client = { forcePathStyle: true, endpoint: process.env.AWS_ENDPOINT_URL_S3 };

/** Listens on a free port and reports it on the standard output. */
export function listen(server, name) {
  const listener = server.listen(0, "127.0.0.1", () => {
    console.log(`${name} listens on http://127.0.0.1:${listener.address().port}`);
  });
}
