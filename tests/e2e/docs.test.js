// Tests /docs in a browser: reading the API's description, and trying it out.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import { fixture, pageTest, sameBytes, start, stop } from "./support.js";

before(() => start());
after(stop);

/** Opens the docs with the page's link, and expands an operation. */
async function open(desk, operation) {
  await desk.page.getByRole("link", { name: "API" }).click();
  const block = desk.page.locator(`[id$="-${operation}"].opblock`);
  await block.locator(".opblock-summary-control").click();
  return block;
}

async function answered(block, status) {
  await block.getByRole("button", { name: "Execute" }).click();
  await block.locator(".live-responses-table .response-col_status", { hasText: status }).waitFor();
  return block.locator(".live-responses-table .response-col_description pre").first().textContent();
}

pageTest("the docs show every operation and load nothing from elsewhere", {}, async (desk) => {
  const block = await open(desk, "limits");
  await block.getByRole("button", { name: "Try it out" }).click();
  assert.match(await answered(block, "200"), /"max_upload_size": 5000000000/);

  const described = await (await fetch(new URL("/openapi.json", desk.service.url))).json();
  const operations = Object.values(described.paths).flatMap((path) => Object.values(path));
  assert.equal(await desk.page.locator(".opblock").count(), operations.length);
  for (const { operationId } of operations.filter(({ operationId }) => operationId !== "limits")) {
    const block = desk.page.locator(`[id$="-${operationId}"].opblock`);
    await block.locator(".opblock-summary-control").click();
    await block.locator(".responses-table").first().waitFor();
    // Every open operation makes the page slower.
    await block.locator(".opblock-summary-control").click();
  }
  const elsewhere = desk.requests.map((request) => request.url()).filter((url) => !url.startsWith(desk.service.url) && !url.startsWith("data:"));
  assert.deepEqual(elsewhere, []);
  await desk.shoot("docs");
});

pageTest("an image can be uploaded from the docs", {}, async (desk) => {
  const block = await open(desk, "upload_image");
  await block.getByRole("button", { name: "Try it out" }).click();
  await block.locator("input[type=file]").setInputFiles(fixture("plain.png"));
  const image = JSON.parse(await answered(block, "200"));
  await sameBytes(image.url, fixture("plain.png"));
});
