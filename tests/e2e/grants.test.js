// Grants in a browser: the upload page with a grant, and a page of another origin that has only a grant.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before } from "node:test";
import { MIB, fixture, pageTest, sameBytes, start, stop } from "./support.js";

const KEY = "a key that no browser ever sees".replaceAll(" ", "-");

let elsewhere;

before(async () => {
  elsewhere = createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>Another site</title>");
  });
  await new Promise((listening) => elsewhere.listen(0, "127.0.0.1", listening));
  elsewhere.url = `http://127.0.0.1:${elsewhere.address().port}`;
  await start({ API_KEYS: KEY, CORS_ALLOW_ORIGIN: elsewhere.url, DIRECT_PUT_MAX: "6MiB" });
});

after(async () => {
  elsewhere.close();
  await stop();
});

/** Returns a grant, signed as by a backend that has only a crypto library. */
function grant(claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 900;
  const signed = `${part({ alg: "HS256" })}.${part({ aud: "image-store", exp, ...claims })}`;
  const hash = createHash("sha256").update(KEY).digest();
  return `${signed}.${createHmac("sha256", hash).update(signed).digest("base64url")}`;
}

const REJECTED = { logs: /status of (400|401|413)/ };

pageTest("the page with a grant shows its limits and requires no key", REJECTED, async (desk) => {
  const { page } = desk;
  await page.goto(`${desk.service.url}/g/${grant({ max_size: 20e6, formats: ["png"] })}/`);
  await page.locator("#limits", { hasText: /^PNG up to 20.MB$/ }).waitFor();
  await page.locator("#grant", { hasText: /This link is valid until \d/ }).waitFor();
  await desk.shoot("grant");

  const [small, large] = [fixture("plain.png"), await desk.service.png("twelve.png", 12 * MIB)];
  await desk.pick(small, large, fixture("plain.jpg"), await desk.service.png("too-large.png", 20e6 + 1));
  for (const [name, file] of [["plain.png", small], ["twelve.png", large]]) {
    const card = await desk.becomes(name, "done");
    assert.equal(await card.locator("[data-do=delete]").isVisible(), false);
    await sameBytes(await desk.link(name), file);
  }
  const wrong = await desk.becomes("plain.jpg", "failed");
  assert.equal(await wrong.locator(".state").textContent(), "This type of file is not accepted. Accepted: PNG.");
  const long = await desk.becomes("too-large.png", "failed");
  assert.match(await long.locator(".state").textContent(), /^This file is too large: 20.0\sMB. At most 20\sMB are accepted.$/);
  assert.equal(await page.locator("#key-form").isVisible(), false);

  // The links of a plan are valid without the grant.
  const completed = desk.sent("POST", "/complete?plan=");
  assert.equal(completed.length, 1);
  assert.match(new URL(completed[0].url()).pathname, /^\/uploads\//);
  assert.ok(desk.sent("PUT", "partNumber=").length >= 2);
  for (const request of desk.requests) assert.equal(request.headers().referer?.includes("/g/") ?? false, false);
});

pageTest("the page explains that a link has expired or is invalid", REJECTED, async (desk) => {
  const { page } = desk;
  const now = Math.floor(Date.now() / 1000);
  const title = (text) => page.locator(".drop-title", { hasText: text }).waitFor();
  await page.goto(`${desk.service.url}/g/${grant({ exp: now + 5 })}/`);
  await page.locator("#grant", { hasText: "is valid until" }).waitFor();
  await title("This link has expired");
  assert.equal(await page.locator("#pick").isVisible(), false);
  await page.locator("#grant", { hasText: "Ask the person who sent it" }).waitFor();
  await desk.shoot("grant expired");

  await page.goto(`${desk.service.url}/g/${grant({ exp: now - 120 })}/`);
  await title("This link has expired");
  await page.goto(`${desk.service.url}/g/${grant()}x/`);
  await title("This link is invalid");
  assert.equal(await page.locator("#pick").isVisible(), false);
  assert.equal(await page.locator("#key-form").isVisible(), false);
});

pageTest("a page of another origin uploads with only a grant, within its limits", REJECTED, async (desk) => {
  const { page } = desk;
  await page.goto(elsewhere.url);
  const png = (await readFile(fixture("plain.png"))).toString("base64");
  const token = grant({ max_size: 13 * MIB, formats: ["png"] });
  const results = await page.evaluate(uploads, { base: desk.service.url, token, png, large: 12 * MIB });
  assert.equal(results.form.status, 200, JSON.stringify(results.form));
  assert.equal(results.plan.status, 201, JSON.stringify(results.plan));
  assert.ok(results.parts >= 2);
  assert.equal(results.stored.status, 200, JSON.stringify(results.stored));
  assert.equal(results.stored.body.size, 12 * MIB);
  assert.deepEqual([results.tooLarge.status, results.tooLarge.body.code], [413, "payload_too_large"]);
  assert.deepEqual([results.planTooLarge.status, results.planTooLarge.body.code], [413, "payload_too_large"]);
  assert.deepEqual([results.wrongType.status, results.wrongType.body.accepted], [400, ["png"]]);
  assert.deepEqual([results.without.status, results.without.body.code], [401, "unauthorized"]);
});

/** Runs in the page. All requests except the last one are sent with the grant. */
async function uploads({ base, token, png, large }) {
  const head = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  const image = (size = head.length, name = "a.png") => new File([head, new Uint8Array(size - head.length)], name);
  const request = async (path, init) => {
    const answer = await fetch(new URL(path, base), init);
    return { status: answer.status, body: await answer.json() };
  };
  const form = (file, withGrant = true) => {
    const body = new FormData();
    if (withGrant) body.append("grant", token);
    body.append("file", file, file.name);
    return request("/upload-image", { method: "POST", body });
  };
  const plan = (filename, size) => {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    return request("/uploads", { method: "POST", headers, body: JSON.stringify({ filename, size }) });
  };
  const planned = await plan("large.png", large);
  const file = image(large);
  let at = 0;
  for (const { size, url } of planned.body.parts) {
    const part = await fetch(url, { method: "PUT", body: file.slice(at, at + size) });
    if (!part.ok) throw new Error(`a part was rejected with ${part.status}`);
    at += size;
  }
  return {
    form: await form(image()),
    plan: planned,
    parts: planned.body.parts.length,
    stored: await request(planned.body.complete_url, { method: "POST" }),
    tooLarge: await form(image(13 * 2 ** 20 + 1)),
    planTooLarge: await plan("larger.png", 13 * 2 ** 20 + 1),
    wrongType: await plan("a.jpg", 1),
    without: await form(image(), false),
  };
}
