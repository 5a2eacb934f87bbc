// Runs every example of examples/ against the real service: the pages in a browser, the others as programs.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { MIB, fixture, pageTest, sameBytes, start, stop, until } from "./support.js";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
const KEY = "a-key-that-no-browser-ever-sees";
const run = promisify(execFile);

let service, site, env;

/** The site whose pages are the examples, and whose backend has the API key. */
class Site {
  static async start(port) {
    const stdio = ["ignore", "pipe", "inherit"];
    const child = spawn("node", ["serve.mjs"], { cwd: EXAMPLES, env: { ...env, PORT: port }, stdio });
    await once(createInterface({ input: child.stdout }), "line");
    return Object.assign(new Site(), { child, url: `http://127.0.0.1:${port}` });
  }
}

before(async () => {
  const port = await freePort();
  // The links of Uppy and tus lead to /images/{s3_key}.
  const settings = { API_KEYS: KEY, CORS_ALLOW_ORIGIN: `http://127.0.0.1:${port}`, PUBLIC_READ: "true", DIRECT_PUT_MAX: "6MiB" };
  service = await start(settings);
  env = { ...process.env, IMAGE_STORE_URL: service.url, IMAGE_STORE_API_KEY: KEY };
  site = await Site.start(port);
});

after(async () => {
  site?.child.kill();
  await stop();
});

async function freePort() {
  const server = createServer();
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

const UPPY = { input: ".uppy-Dashboard-input >> nth=0", start: ".uppy-StatusBar-actionBtn--upload" };
/** How a user chooses files in each page and starts the upload, and whether a large file is sent to S3 in parts. */
const CLIENTS = {
  fetch: { input: "#files", parts: true },
  axios: { input: "#files" },
  "tus-js": { input: "#files" },
  dropzone: { input: ".dz-hidden-input" },
  filepond: { input: ".filepond--browser" },
  "uppy-xhr": UPPY,
  "uppy-5": { ...UPPY, parts: true },
  "uppy-6": { ...UPPY, parts: true },
};

async function choose(page, { input, start }, ...files) {
  await page.locator(input).setInputFiles(files);
  if (start) await page.locator(start).click();
}

/** Waits for the link to an image in the page's list. */
function link(page, name) {
  return page.locator("#images a", { hasText: name }).first().getAttribute("href");
}

/** The requests that send a file. */
function sent(desk) {
  return ["POST /upload-image", "POST /images", "PUT /_store/", "PATCH /files/"].flatMap((each) => desk.sent(...each.split(" ")));
}

const text = { name: "text.png", mimeType: "image/png", buffer: Buffer.from("no image at all") };

for (const [name, client] of Object.entries(CLIENTS)) {
  // Uppy logs what it shows.
  const logs = /status of 4\d\d|Invalid file type|Non 2xx|network error/;

  pageTest(`${name}: the bytes stored are the bytes sent`, {}, async (desk) => {
    await desk.page.goto(`${site.url}/${name}/`);
    const files = [fixture("plain.jpg"), await desk.service.png("twelve.png", 12 * MIB)];
    await choose(desk.page, client, ...files);
    for (const file of files) await sameBytes(await link(desk.page, path.basename(file)), file);
    assert.equal(desk.sent("PUT", "partNumber=").length, client.parts ? 3 : 0);
    for (const request of desk.requests) assert.doesNotMatch(JSON.stringify(request.headers()), new RegExp(KEY));
    await desk.shoot(`example ${name}`);
  });

  pageTest(`${name}: a rejected image is shown with the reason, and not sent again`, { logs }, async (desk) => {
    await desk.page.goto(`${site.url}/${name}/`);
    await choose(desk.page, client, text);
    await desk.page.getByText(/Invalid file type/).first().waitFor();
    assert.equal(sent(desk).length, 1);
    await desk.shoot(`example ${name} rejected`);
  });
}

for (const [name, retry] of [["axios"], ["uppy-xhr"], ["filepond", ".filepond--action-retry-item-processing"]]) {
  pageTest(`${name}: an image whose response was lost is stored once`, { logs: /ERR_FAILED/ }, async (desk) => {
    const keys = [];
    const before = (await desk.service.images()).length;
    await desk.page.route("**/upload-image", async (route) => {
      keys.push(route.request().headers()["idempotency-key"]);
      if (keys.length > 1) return route.continue();
      await route.fetch();
      return route.abort("failed");
    });
    await desk.page.goto(`${site.url}/${name}/`);
    await choose(desk.page, CLIENTS[name], fixture("plain.png"));
    if (retry) await desk.page.locator(retry).click();
    await sameBytes(await link(desk.page, "plain.png"), fixture("plain.png"));
    assert.equal(keys.length, 2);
    assert.match(keys[0], /^"[0-9a-f-]{36}"$/);
    assert.equal(keys[0], keys[1]);
    assert.equal((await desk.service.images()).length, before + 1);
  });
}

pageTest("uppy-5: an API key in the headers works like a grant in the address", {}, async (desk) => {
  // For pages that only people with a key can open. The example has no key, so its script is changed.
  await desk.page.route("**/uppy-5/main.js", async (route) => {
    const script = await (await route.fetch()).text();
    const withKey = `endpoint: ${JSON.stringify(`${service.url}/`)}, headers: { Authorization: "Bearer ${KEY}" }`;
    assert.equal(script.split("endpoint: await uploadAddress()").length, 3);
    await route.fulfill({ contentType: "text/javascript", body: script.replaceAll("endpoint: await uploadAddress()", withKey) });
  });
  await desk.page.goto(`${site.url}/uppy-5/`);
  const files = [fixture("plain.jpg"), await desk.service.png("twelve.png", 12 * MIB)];
  await choose(desk.page, CLIENTS["uppy-5"], ...files);
  for (const file of files) await sameBytes(await link(desk.page, path.basename(file)), file);
  assert.equal(desk.sent("PUT", "partNumber=").length, 3);
  assert.equal(desk.requests.some((request) => request.url().includes("/g/")), false);
});

pageTest("form: the browser shows the stored image, or the reason for the rejection", { logs: /status of 400/ }, async (desk) => {
  const send = async (file) => {
    await desk.page.goto(`${site.url}/form/`);
    await desk.page.locator("input[type=file]").setInputFiles(file);
    await desk.page.getByRole("button", { name: "Upload" }).click();
  };
  await send(fixture("plain.jpg"));
  await sameBytes(await desk.page.getByRole("link", { name: "Open the image" }).getAttribute("href"), fixture("plain.jpg"));
  await desk.accessible();
  await desk.shoot("example form");
  await send(text);
  await desk.page.getByText(/Invalid file type/).first().waitFor();
  await desk.accessible();
  await desk.shoot("example form rejected");
});

// Version 6 shows only the status of a response to the completion.
for (const [name, shown] of [["uppy-5", /Invalid file type/], ["uppy-6", /Companion request failed: Bad Request/]]) {
  const logs = new RegExp(`status of 400|${shown.source}`);
  pageTest(`${name}: a rejected large file leaves nothing`, { logs }, async (desk) => {
    await desk.page.goto(`${site.url}/${name}/`);
    await choose(desk.page, CLIENTS[name], await desk.service.file("noise.png", 12 * MIB));
    await desk.page.locator("#images").getByText(shown).waitFor();
    assert.equal(desk.sent("PUT", "partNumber=").length, 3);
    assert.equal(desk.sent("POST", "/complete?key=").length, 1);
    await until("nothing is left in the store", async () => (await desk.service.leftovers()).length === 0);
  });

  pageTest(`${name}: a cancelled upload leaves nothing`, {}, async (desk) => {
    await desk.page.goto(`${site.url}/${name}/`);
    await desk.slow(4 * MIB);
    await choose(desk.page, CLIENTS[name], await desk.service.png("cancelled.png", 22 * MIB));
    await until("a part is sent", async () => desk.sent("PUT", "partNumber=").length > 0);
    assert.notEqual((await desk.service.leftovers()).length, 0);
    await desk.page.locator(".uppy-StatusBar-actions").getByRole("button", { name: "Cancel" }).click();
    await until("nothing is left in the store", async () => (await desk.service.leftovers()).length === 0);
  });

  pageTest(`${name}: an upload continues after a reload with the missing parts`, {}, async (desk) => {
    const file = await desk.service.png("reloaded.png", 22 * MIB);
    const parts = [];
    desk.page.on("response", (response) => {
      const number = new URL(response.url()).searchParams.get("partNumber");
      if (number && response.request().method() === "PUT") parts.push(Number(number));
    });
    await desk.page.goto(`${site.url}/${name}/`);
    // Uppy stores its state every half second.
    await desk.slow(2 * MIB);
    await choose(desk.page, CLIENTS[name], file);
    await until("a part is stored", async () => parts.length > 0);
    await desk.page.reload();
    await desk.slow();
    await desk.page.locator(UPPY.start).click();
    await sameBytes(await link(desk.page, "reloaded.png"), file);
    assert.equal(new Set(parts).size, parts.length, `no part is sent twice: ${parts}`);
  });
}

pageTest("tus-js: an upload continues after a reload where it stopped", {}, async (desk) => {
  const file = await desk.service.png("reloaded.png", 22 * MIB);
  await desk.page.goto(`${site.url}/tus-js/`);
  await desk.slow(4 * MIB);
  const created = desk.page.waitForResponse((response) => response.request().method() === "POST" && response.url().endsWith("/files"));
  await choose(desk.page, CLIENTS["tus-js"], file);
  const address = await (await created).headerValue("location");
  const stored = async () => {
    const { headers } = await fetch(address, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
    return Number(headers.get("upload-offset"));
  };
  await until("bytes are stored", async () => (await stored()) > 0);
  await desk.page.reload();
  await desk.slow();
  const before = desk.requests.length;
  await choose(desk.page, CLIENTS["tus-js"], file);
  await sameBytes(await link(desk.page, "reloaded.png"), file);
  const resumed = desk.requests.slice(before).filter((request) => request.method() === "PATCH");
  assert.equal(resumed.length, 1);
  assert.equal(resumed[0].url(), address);
  assert.ok(Number(resumed[0].headers()["upload-offset"]) > 0);
});

pageTest("fetch: a PUT whose response was lost is not repeated in vain", { logs: /ERR_FAILED|status of 412/ }, async (desk) => {
  let lost = false;
  await desk.page.route("**/_store/**", async (route) => {
    if (lost || route.request().method() !== "PUT") return route.continue();
    lost = true;
    await route.fetch();
    return route.abort("failed");
  });
  await desk.page.goto(`${site.url}/fetch/`);
  await choose(desk.page, CLIENTS.fetch, fixture("plain.png"));
  await sameBytes(await link(desk.page, "plain.png"), fixture("plain.png"));
  assert.equal(desk.sent("PUT", "/_store/").length, 2);
});

/** Uploads a file as a form, to an address with a grant. */
async function upload(address, file) {
  const form = new FormData();
  form.append("file", new File([await readFile(file)], path.basename(file)));
  const response = await fetch(new URL("upload-image", address), { method: "POST", body: form });
  return { status: response.status, body: await response.json() };
}

const BACKENDS = [
  ["node", "grant.mjs"],
  [process.env.PYTHON ?? "python3", "grant.py"],
  [process.env.GO ?? "go", "run", "grant.go"],
  ["sh", "grant.sh"],
];
// Go compiles its standard library once.
const GOCACHE = path.resolve(EXAMPLES, "../target/e2e/go");

for (const [program, ...args] of BACKENDS) {
  test(`${args.at(-1)}: the address allows uploads with the metadata of the backend`, { timeout: 300_000 }, async () => {
    const { stdout } = await run(program, args, { cwd: path.join(EXAMPLES, "grant"), env: { ...env, GOCACHE } });
    const address = stdout.trim();
    const [, payload] = new URL(address).pathname.split("/")[2].split(".");
    const claims = JSON.parse(Buffer.from(payload, "base64url"));
    assert.ok(claims.exp > Date.now() / 1000 && claims.exp <= Date.now() / 1000 + 3600);

    const stored = await upload(address, fixture("plain.jpg"));
    assert.equal(stored.status, 200, JSON.stringify(stored.body));
    assert.deepEqual(stored.body.metadata, { user: "user-42" });
    await sameBytes(stored.body.url, fixture("plain.jpg"));
    const again = await upload(address, fixture("progressive.jpg"));
    if (claims.key) {
      assert.equal(stored.body.s3_key, claims.key);
      assert.deepEqual([again.status, again.body.code], [409, "already_exists"]);
    } else {
      assert.equal(again.status, 200, JSON.stringify(again.body));
    }
  });
}

const uploadScript = (file, more = {}) => run(path.join(EXAMPLES, "upload.sh"), [file], { env: { ...env, ...more } });

test("upload.sh: the image is stored, and a rejected file is reported", async () => {
  const { stdout } = await uploadScript(fixture("plain.gif"));
  await sameBytes(JSON.parse(stdout).url, fixture("plain.gif"));
  const failed = await uploadScript(fixture("make.py")).then(() => assert.fail("it must fail"), (error) => error);
  assert.equal(failed.code, 1);
  assert.match(JSON.parse(failed.stdout).detail, /^Invalid file type/);
});

test("upload.sh: an image whose response was lost is stored once", async () => {
  const keys = [];
  const before = (await service.images()).length;
  // Forwards requests. The response to the first one does not reach the client.
  const proxy = createServer((request, response) => {
    keys.push(request.headers["idempotency-key"]);
    const first = keys.length === 1;
    const forwarded = httpRequest(new URL(request.url, service.url), { method: "POST", headers: request.headers }, (answer) => {
      if (first) return answer.resume().on("end", () => request.socket.destroy());
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(forwarded);
  });
  await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
  try {
    const { stdout } = await uploadScript(fixture("plain.jpg"), { IMAGE_STORE_URL: `http://127.0.0.1:${proxy.address().port}` });
    assert.equal(JSON.parse(stdout).content_type, "image/jpeg");
  } finally {
    proxy.close();
  }
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
  assert.equal((await service.images()).length, before + 1);
});
