// Uploads directly to S3, with fetch alone. The service plans the upload and checks the image before anyone can read it.

import { showError, showImage, uploadAddress } from "../image-store.js";

async function upload(file) {
  const address = await uploadAddress();
  const plan = await ask(new URL("uploads", address), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ filename: file.name, content_type: file.type, size: file.size }),
  });

  // A small file is one PUT, a large one is several parts.
  if (plan.kind === "put") await put(plan, file);
  for (const part of plan.parts ?? []) {
    const start = (part.part_number - 1) * plan.part_size;
    await put(part, file.slice(start, start + part.size));
  }

  // The links of the plan are valid without the grant, so an upload may take longer than the grant is valid.
  for (;;) {
    const image = await ask(new URL(plan.complete_url, address), { method: "POST" });
    if (image.url) return image; // otherwise the service is still verifying the image
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

/** Sends a request to the service. Returns the JSON of the response, or throws the reason for the rejection. */
async function ask(url, init) {
  const response = await fetch(url, init);
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  return body;
}

/** Sends bytes to S3, and again if the connection is lost. */
async function put({ url, headers: { "content-length": _, ...headers } }, body) {
  // The plan names every header that was signed. Browsers set Content-Length themselves.
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(url, { method: "PUT", headers, body }).catch(() => null);
    // 412: an earlier attempt has arrived, and only its response was lost.
    if (response?.ok || response?.status === 412) return;
    if (attempt === 4) throw new Error("The connection was lost. Try again.");
    await new Promise((resolve) => setTimeout(resolve, 1000 * attempt));
  }
}

document.querySelector("#files").addEventListener("change", async ({ target }) => {
  for (const file of target.files) {
    try {
      showImage(file.name, (await upload(file)).url);
    } catch (error) {
      showError(file.name, error.message);
    }
  }
});
