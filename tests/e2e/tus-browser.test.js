// Resumable uploads in Chromium, with tus-js-client and with Uppy, from a page of another origin that has only a grant.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { createServer } from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { Interruptible, PART } from "./interruptions.js";
import { BROWSER, MIB, sameBytes } from "./support.js";

const KEY = "a-key-that-no-browser-ever-sees";

let site, service, browser;

before(async () => {
  site = await startSite();
  service = await Interruptible.start({ API_KEYS: KEY, CORS_ALLOW_ORIGIN: site.url });
  browser = await chromium.launch(BROWSER);
});

after(async () => {
  await browser?.close();
  await service?.stop();
  site?.server.close();
});

/** Serves the page and its script. */
async function startSite() {
  const options = { bundle: true, format: "esm", write: false, logLevel: "error" };
  const { outputFiles } = await build({ ...options, entryPoints: [path.join(import.meta.dirname, "tus/page.js")] });
  const page = '<!doctype html><title>Uploads</title><input type="file"><script type="module" src="/page.js"></script>';
  const server = createServer((request, response) => {
    const [type, body] = request.url === "/page.js" ? ["text/javascript", outputFiles[0].text] : ["text/html", page];
    response.writeHead(200, { "Content-Type": type }).end(body);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

/** Returns the address of the tus endpoint with a grant, signed as by a backend that has the key. */
function endpoint(claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 900;
  const signed = `${part({ alg: "HS256" })}.${part({ aud: "image-store", exp, ...claims })}`;
  const hash = createHash("sha256").update(KEY).digest();
  return `${service.url}/g/${signed}.${createHmac("sha256", hash).update(signed).digest("base64url")}/files`;
}

/** A browser window with the page, which records the requests to the service. */
async function open(client, to = endpoint()) {
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const requests = [];
  page.on("request", (request) => {
    if (request.url().startsWith(service.url)) requests.push(request);
  });
  await page.goto(`${site.url}/?with=${client}&endpoint=${encodeURIComponent(to)}`);
  const offsets = () =>
    requests.filter((request) => request.method() === "PATCH").map((request) => Number(request.headers()["upload-offset"]));
  return { page, requests, offsets };
}

/** Waits for the end of the upload and compares the stored image with the file. */
async function stored(page, file) {
  await page.waitForFunction(() => window.result);
  const { image, error } = await page.evaluate(() => window.result);
  assert.equal(error, undefined);
  await sameBytes(image.url, file);
  assert.deepEqual(await service.leftovers(), []);
  return image;
}

for (const client of ["withTus", "withUppy"]) {
  test(`${client}: an upload continues after its connection was cut`, async () => {
    const file = await service.png("cut.png", 17 * MIB);
    const { page, offsets } = await open(client, endpoint({ metadata: { owner: "7" } }));
    await service.stallAfterParts(2, () => page.setInputFiles("input", file));
    service.proxy.cut();
    const image = await stored(page, file);
    assert.deepEqual(image.metadata, { owner: "7" });
    assert.equal(offsets()[0], 0);
    assert.ok(offsets()[1] >= 2 * PART, `continued at ${offsets()}`);
    await page.close();
  });

  test(`${client}: an upload continues after the page was reloaded`, async () => {
    const file = await service.png("reload.png", 17 * MIB);
    const { page, offsets } = await open(client);
    await service.stallAfterParts(2, () => page.setInputFiles("input", file));
    await page.reload();
    service.proxy.cut();
    await page.setInputFiles("input", file);
    await stored(page, file);
    assert.equal(offsets()[0], 0);
    assert.ok(offsets()[1] >= 2 * PART, `continued at ${offsets()}`);
    await page.close();
  });

  test(`${client}: an upload continues after the service was killed`, async () => {
    const file = await service.png("killed.png", 17 * MIB);
    const { page, offsets } = await open(client);
    await service.stallAfterParts(2, () => page.setInputFiles("input", file));
    await service.killAndRestart();
    await stored(page, file);
    assert.equal(offsets().at(-1), 2 * PART);
    await page.close();
  });

  test(`${client}: the limits of the grant apply`, async () => {
    const file = await service.png("large.png", 2 * MIB);
    const { page, requests } = await open(client, endpoint({ max_size: MIB }));
    await page.setInputFiles("input", file);
    await page.waitForFunction(() => window.result);
    assert.match((await page.evaluate(() => window.result)).error, /exceeds the limit|413/);
    assert.deepEqual(requests.map((request) => request.method()), ["POST"]);
    await page.close();
  });
}
