// Shared by the browser tests: the real service on a free port, a real browser, files to upload.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, mkdir, open, readdir, readFile, rm } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import axe from "axe-core";
import { chromium } from "playwright-core";

const ROOT = path.resolve(import.meta.dirname, "../..");
const BIN = path.resolve(process.env.BIN ?? path.join(ROOT, "target/release/image-store"));
const PICTURES = path.join(ROOT, "target/e2e");
export const BROWSER = {
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
};
export const MIB = 1 << 20;
const TIMEOUT = 90_000;
/** The content type of the marker that is stored under incoming/ after a plan has ended. */
const MARKER = "application/x-image-store-marker";

/** A running service with the embedded S3 in a temporary folder. */
export class Service {
  static async start(settings) {
    const folder = await mkdtemp(path.join(tmpdir(), "image-store-e2e-"));
    const env = { ...process.env, DATA_DIR: path.join(folder, "data"), PORT: "0", ...settings };
    const child = spawn(BIN, { env, stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    child.stderr.on("data", (text) => (log += text));
    const lines = createInterface({ input: child.stdout });
    const line = await Promise.race([
      once(lines, "line").then(([line]) => line),
      once(child, "exit").then(() => assert.fail(`the service did not start:\n${log}`)),
    ]).catch(async (error) => {
      await rm(folder, { recursive: true });
      throw error;
    });
    return Object.assign(new Service(), { child, folder, url: /http:\/\/[^ ,]+/.exec(line)[0] });
  }

  async stop() {
    this.child.kill("SIGTERM");
    if (this.child.exitCode === null) await once(this.child, "exit");
    await rm(this.folder, { recursive: true });
  }

  /** Returns the files of unfinished multipart uploads, and the unverified objects except markers. */
  async leftovers() {
    const data = path.join(this.folder, "data");
    const files = await readdir(data, { recursive: true });
    const unverified = files.filter((name) => name.includes("incoming%2F"));
    // Each file contains its content type. A file that was removed in the meantime is not a leftover.
    const contents = await Promise.all(unverified.map((name) => readFile(path.join(data, name)).catch(() => MARKER)));
    const begun = files.filter((name) => /^(uploads|tmp)[/]/.test(name));
    return [...begun, ...unverified.filter((_, i) => !contents[i].includes(MARKER))];
  }

  /** Returns the file names of the stored images. */
  async images() {
    const objects = await readdir(path.join(this.folder, "data/objects"));
    return objects.filter((name) => !name.includes("incoming%2F"));
  }

  /** Writes a PNG of `bytes` bytes to disk. Its tail has marks, so that no two parts are equal. */
  async png(name, bytes) {
    return this.file(name, bytes, await readFile(path.join(ROOT, "tests/fixtures/plain.png")));
  }

  async file(name, bytes, head = Buffer.alloc(0)) {
    const file = path.join(this.folder, name);
    const handle = await open(file, "w");
    await handle.truncate(bytes);
    await handle.write(head, 0, head.length, 0);
    for (let at = MIB; at + 8 < bytes; at += MIB) {
      const mark = Buffer.alloc(8);
      mark.writeBigUInt64BE(BigInt(at));
      await handle.write(mark, 0, 8, at);
    }
    await handle.close();
    return file;
  }
}

export function fixture(name) {
  return path.join(ROOT, "tests/fixtures", name);
}

let service, browser;

/** Starts the service, with `settings` in its environment, and the browser; for `before`. Returns the service. */
export async function start(settings = {}) {
  await mkdir(PICTURES, { recursive: true });
  [service, browser] = await Promise.all([Service.start(settings), chromium.launch(BROWSER)]);
  return service;
}

/** Stops the service and the browser; for `after`. */
export async function stop() {
  await browser?.close();
  await service?.stop();
}

/**
 * Defines a test in its own browser window. It fails if the page logs an error or violates its Content-Security-Policy. `logs`
 * matches the messages that are allowed, because browsers report every rejected or broken request.
 */
export function pageTest(name, { logs = /^$/, ...options }, body) {
  test(name, { timeout: 4 * TIMEOUT }, async () => {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: service.url });
    const page = await context.newPage();
    page.setDefaultTimeout(TIMEOUT);
    const problems = [];
    page.on("console", (message) => {
      const quiet = ["log", "info", "debug"].includes(message.type());
      if (!quiet && !logs.test(message.text())) problems.push(message.text());
    });
    page.on("pageerror", (error) => problems.push(String(error)));
    try {
      await page.goto(service.url);
      await page.locator("#limits", { hasText: "up to" }).waitFor();
      await body(new Desk(page, context));
      assert.deepEqual([...new Set(problems)], [], "unexpected messages in the page's console");
    } catch (error) {
      await page.screenshot({ path: picture(`failed ${name}`) });
      throw error;
    } finally {
      await context.close();
    }
  });
}

function picture(name) {
  return path.join(PICTURES, `${name.replaceAll(/[^a-z0-9]+/gi, "-")}.png`);
}

/** The page as a user sees it. */
class Desk {
  constructor(page, context) {
    this.page = page;
    this.context = context;
    this.service = service;
    this.requests = [];
    page.on("request", (request) => this.requests.push(request));
  }

  async pick(...files) {
    const chooser = this.page.waitForEvent("filechooser");
    await this.page.getByRole("button", { name: "Choose images" }).click();
    await (await chooser).setFiles(files);
  }

  card(name, state) {
    const selector = state ? `.card[data-state="${state}"]` : ".card";
    return this.page.locator(selector, { has: this.page.locator(".name", { hasText: name }) });
  }

  /** Waits for a card to reach a state. If the card fails instead, the error contains its message. */
  async becomes(name, state) {
    const card = this.card(name, state);
    const reached = card.waitFor().then(() => null);
    const failed = state === "failed" ? reached : this.card(name, "failed").waitFor().then(() => "failed", () => null);
    if ((await Promise.race([reached, failed])) === "failed") {
      assert.fail(`${name} failed: ${await this.card(name).locator(".state").textContent()}`);
    }
    return card;
  }

  press(name, action) {
    return this.card(name).locator(`[data-do="${action}"]`).click();
  }

  link(name) {
    return this.card(name).locator(".url").inputValue();
  }

  /** Limits the upload speed; without a number, removes the limit. */
  slow(bytesPerSecond = -1) {
    return this.emulate({ offline: false, uploadThroughput: bytesPerSecond });
  }

  offline() {
    return this.emulate({ offline: true, uploadThroughput: -1 });
  }

  // Always uses the same session: conditions set in another one (`setOffline`) may not take effect.
  async emulate(conditions) {
    this.cdp ??= await this.context.newCDPSession(this.page);
    await this.cdp.send("Network.emulateNetworkConditions", { latency: 0, downloadThroughput: -1, ...conditions });
  }

  sent(method, part) {
    return this.requests.filter((request) => request.method() === method && request.url().includes(part));
  }

  /** Asserts that axe finds no violation in the page as it is. */
  async accessible() {
    await this.page.evaluate(axe.source);
    const { violations } = await this.page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]), []);
  }

  shoot(name, options = {}) {
    return this.page.screenshot({ path: picture(name), fullPage: true, animations: "disabled", ...options });
  }
}

/** Starts a proxy that serves the service below `prefix`, and an unrelated page at all other paths. */
export async function prefixed(prefix, target) {
  const server = createServer((request, response) => {
    if (!request.url.startsWith(`${prefix}/`)) return response.writeHead(404, { "Content-Type": "text/html" }).end("<h1>Not found</h1>");
    const options = { method: request.method, headers: request.headers };
    const forwarded = httpRequest(new URL(request.url.slice(prefix.length), target), options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    forwarded.on("error", () => response.destroy());
    request.pipe(forwarded);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Asserts that the object behind a link is the file, byte for byte. */
export async function sameBytes(link, file) {
  const answer = await fetch(link);
  assert.equal(answer.status, 200, link);
  const [there, here] = [createHash("sha256"), createHash("sha256")];
  for await (const chunk of answer.body) there.update(chunk);
  const handle = await open(file);
  for await (const chunk of handle.createReadStream()) here.update(chunk);
  assert.equal(there.digest("hex"), here.digest("hex"), "the object must be the file");
}

/** Polls until a condition holds. Fails if it does not within 15 seconds. */
export async function until(what, holds) {
  const deadline = Date.now() + 15_000;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await delay(20);
  }
}
