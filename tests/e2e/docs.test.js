// Tests /docs in a browser: reading the API's description, and trying it out.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import { Service, fixture, pageTest, sameBytes, start, stop } from "./support.js";

let keyed;

before(async () => {
  await start();
  keyed = await Service.start({ API_KEYS: "a-key-that-no-browser-ever-sees" });
});

after(async () => {
  await stop();
  await keyed?.stop();
});

/** Opens the docs with the page's link, and expands an operation. */
async function open(desk, operation) {
  await desk.page.getByRole("link", { name: "API documentation" }).click();
  return expand(desk, operation);
}

async function expand(desk, operation) {
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

pageTest("the docs show locks only if the service has keys", {}, async ({ page, service }) => {
  for (const [url, hasKeys] of [[service.url, false], [keyed.url, true]]) {
    await page.goto(new URL("/docs", url).href);
    await page.locator(".opblock").first().waitFor();
    assert.equal(await page.locator(".btn.authorize").isVisible(), hasKeys);
    assert.equal((await page.locator(".opblock .authorization__btn").count()) > 0, hasKeys);
  }
});

// The colours do not depend on the width.
for (const [width, colorScheme] of [[375, "dark"], [1440, "light"]]) {
  pageTest(`axe finds nothing in the docs: ${width} px, ${colorScheme}`, { viewport: { width, height: 900 }, colorScheme }, async (desk) => {
    const { page } = desk;
    await page.goto(new URL("/docs", keyed.url).href);
    const form = await expand(desk, "upload_image");
    await form.getByRole("button", { name: "Try it out" }).click();
    const limits = await expand(desk, "limits");
    await limits.getByRole("button", { name: "Try it out" }).click();
    await answered(limits, "200");
    await desk.accessible();
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no horizontal scrolling");
    await desk.shoot(`docs ${width} ${colorScheme}`, { fullPage: false });
    await page.locator(".btn.authorize").first().click();
    await page.locator(".modal-ux").waitFor();
    await desk.accessible();
  });
}
