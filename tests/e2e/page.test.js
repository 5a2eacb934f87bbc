// Tests the upload page in a browser, against the real service and its embedded S3.

import assert from "node:assert/strict";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { after, before } from "node:test";
import { MIB, fixture, pageTest, prefixed, sameBytes, start, stop, until } from "./support.js";

before(() => start());
after(stop);

pageTest("a small file is uploaded as a form", {}, async (desk) => {
  await desk.pick(fixture("plain.jpg"));
  const card = await desk.becomes("plain.jpg", "done");
  assert.equal(desk.sent("POST", "/upload-image").length, 1);
  assert.equal(desk.sent("PUT", "").length, 0);
  assert.match(await card.locator(".state").textContent(), /\d+ × \d+ · JPEG · /);
  await card.locator(".thumb img").waitFor();
  const link = await desk.link("plain.jpg");
  await sameBytes(link, fixture("plain.jpg"));

  await desk.press("plain.jpg", "copy");
  await card.getByText("Copied").waitFor();
  assert.equal(await desk.page.evaluate(() => navigator.clipboard.readText()), link);
  assert.equal(await card.locator("[data-do=open]").getAttribute("href"), link);
});

pageTest("a larger file is uploaded directly to the store", {}, async (desk) => {
  const file = await desk.service.png("twelve.png", 12 * MIB);
  await desk.pick(file);
  await desk.becomes("twelve.png", "done");
  assert.equal(desk.sent("POST", "/upload-image").length, 0);
  assert.equal(desk.sent("PUT", "/incoming/").length, 1);
  await sameBytes(await desk.link("twelve.png"), file);
});

pageTest("300 MiB are uploaded in parallel parts, with speed and time left", {}, async (desk) => {
  const file = await desk.service.png("huge.png", 300 * MIB);
  await desk.slow(60 * MIB);
  await desk.pick(file);
  const pace = /[\d.]+\sMB of 315\sMB · [\d.]+\s[kM]B\/s · \d+\ss\sleft/;
  await desk.card("huge.png", "sending").locator(".state", { hasText: pace }).waitFor();
  await desk.shoot("uploading");
  await desk.slow();
  await desk.becomes("huge.png", "done");
  assert.equal(new Set(desk.sent("PUT", "partNumber=").map((request) => request.url())).size, 60);
  await sameBytes(await desk.link("huge.png"), file);
});

pageTest("a rejected file shows the server's error", { logs: /status of 400/ }, async (desk) => {
  await desk.pick(
    { name: "text.png", mimeType: "image/png", buffer: Buffer.from("no image at all") },
    { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("notes") },
  );
  await desk.pick(await desk.service.file("noise.png", 9 * MIB));
  for (const name of ["text.png", "noise.png"]) {
    const card = await desk.becomes(name, "failed");
    // The key of a form that can be sent again has an extension, so only that format is accepted.
    assert.match(await card.locator(".state").textContent(), /^Invalid file type.* Accepted: (PNG|JPEG, PNG, GIF or BMP)\.$/);
    // The same file would be rejected again.
    assert.equal(await card.getByRole("button", { name: `Retry ${name}` }).count(), 0);
  }
  // What is wrong with the name needs no request.
  const notes = await desk.becomes("notes.txt", "failed");
  assert.equal(await notes.locator(".state").textContent(), "This type of file is not accepted. Accepted: JPEG, PNG, GIF or BMP.");
  assert.equal(await notes.getByRole("button", { name: "Retry notes.txt" }).count(), 0);
  assert.equal(desk.sent("POST", "/upload-image").length, 1);
  assert.equal(desk.sent("PUT", "/incoming/").length, 1);
  await until("nothing is left in the store", async () => (await desk.service.leftovers()).length === 0);
  await desk.shoot("refused");
});

pageTest("a cancelled upload leaves nothing and can be retried", {}, async (desk) => {
  const small = await desk.service.png("form.png", 6 * MIB);
  const large = await desk.service.png("parts.png", 120 * MIB);
  await desk.slow(2 * MIB);
  await desk.pick(small, large);
  for (const name of ["form.png", "parts.png"]) {
    await desk.card(name, "sending").locator(".state", { hasText: /\/s ·/ }).waitFor();
  }
  await until("the store has received data", async () => (await desk.service.leftovers()).length > 0);
  for (const name of ["form.png", "parts.png"]) {
    await desk.press(name, "cancel");
    await desk.becomes(name, "canceled");
  }
  await until("nothing is left in the store", async () => (await desk.service.leftovers()).length === 0);
  await desk.shoot("canceled");
  await desk.slow();
  for (const [name, file] of [["form.png", small], ["parts.png", large]]) {
    await desk.press(name, "retry");
    await desk.becomes(name, "done");
    await sameBytes(await desk.link(name), file);
  }
});

pageTest("a cancel after completion shows the stored image", { logs: /status of 409/ }, async (desk) => {
  const file = await desk.service.png("late.png", 9 * MIB);
  let completed = false;
  // The service completes the upload, but its answer does not reach the page.
  await desk.page.route("**/complete?*", async (route) => {
    await route.fetch();
    completed = true;
  }, { times: 1 });
  await desk.pick(file);
  await desk.becomes("late.png", "verifying");
  await until("the image is stored", async () => completed);
  await desk.press("late.png", "cancel");
  await desk.becomes("late.png", "done");
  await sameBytes(await desk.link("late.png"), file);
});

pageTest("a failed upload shows the server's error and can be retried", { logs: /status of 500/ }, async (desk) => {
  const refusal = { detail: "The image could not be stored; try again", code: "storage_failed" };
  await desk.page.route("**/upload-image", (route) => route.fulfill({ status: 500, json: refusal }), { times: 1 });
  await desk.pick(fixture("plain.png"));
  const card = await desk.becomes("plain.png", "failed");
  assert.equal(await card.locator(".state").textContent(), refusal.detail);
  await desk.press("plain.png", "retry");
  await desk.becomes("plain.png", "done");
});

pageTest("a form whose answer was lost is sent again, and stored once", { logs: /ERR_FAILED|status of 502/ }, async (desk) => {
  const keys = new Set();
  const before = (await desk.service.images()).length;
  // The service stores the image, and its answer does not reach the page.
  let lost = 0;
  await desk.page.route("**/upload-image", async (route) => {
    keys.add(route.request().headers()["idempotency-key"]);
    if (lost === 2) return route.continue();
    await route.fetch();
    lost += 1;
    return lost === 1 ? route.abort("failed") : route.fulfill({ status: 502, body: "Bad gateway" });
  });
  await desk.pick(fixture("plain.jpg"));
  await desk.becomes("plain.jpg", "done");
  assert.equal(desk.sent("POST", "/upload-image").length, 3);
  assert.equal(keys.size, 1);
  assert.equal((await desk.service.images()).length, before + 1);
});

pageTest("only missing parts are sent after being offline", { logs: /ERR_INTERNET_DISCONNECTED/ }, async (desk) => {
  const file = await desk.service.png("train.png", 300 * MIB);
  const arrived = [];
  const number = (url) => Number(new URL(url).searchParams.get("partNumber"));
  desk.page.on("response", (answer) => {
    if (answer.request().method() === "PUT" && answer.ok()) arrived.push(number(answer.url()));
  });
  await desk.slow(40 * MIB);
  await desk.pick(file);
  await until("some parts have arrived", () => arrived.length >= 8);
  await desk.offline();
  await desk.becomes("train.png", "waiting");
  await desk.shoot("offline");
  const before = new Set(arrived);
  assert.ok(before.size < 60, "some parts must be missing");
  const begun = desk.requests.length;

  await desk.slow();
  await desk.becomes("train.png", "done");
  const again = desk.requests.slice(begun).filter((request) => request.method() === "PUT").map((request) => number(request.url()));
  assert.deepEqual(again.filter((part) => before.has(part)), [], "parts that had arrived must not be sent again");
  assert.equal(new Set([...before, ...again]).size, 60);
  assert.equal(desk.sent("POST", "/uploads").filter((request) => !request.url().includes("complete")).length, 1);
  await sameBytes(await desk.link("train.png"), file);
});

for (const [which, change] of [["the same file", 0], ["another file", 1]]) {
  pageTest(`an object that is already in the store: ${which}`, { logs: /status of 412/ }, async (desk) => {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: '{"filename":"nine.png"}' };
    const { url } = await (await fetch(`${desk.service.url}/grants`, request)).json();
    await desk.page.goto(new URL(url, desk.service.url).href);
    await desk.page.locator("#limits", { hasText: "up to" }).waitFor();
    const file = await desk.service.png("nine.png", 9 * MIB);
    const body = await readFile(file);
    body[body.length - 1] ^= change;
    await desk.page.route("**/incoming/**", async (route) => {
      const all = Object.entries(await route.request().allHeaders());
      const headers = Object.fromEntries(all.filter(([name]) => /^(content-type|if-none-match|x-amz-.*)$/.test(name)));
      assert.equal((await fetch(route.request().url(), { method: "PUT", headers, body })).status, 200);
      await route.continue();
    }, { times: 1 });
    await desk.pick(file);
    const card = await desk.becomes("nine.png", change ? "failed" : "done");
    if (change) assert.match(await card.locator(".state").textContent(), /^Another file was already uploaded/);
    else await sameBytes(await desk.link("nine.png"), file);
    assert.equal(desk.sent("PUT", "/incoming/").length, 1);
  });
}

pageTest("an image can be deleted", {}, async (desk) => {
  await desk.pick(fixture("plain.gif"));
  await desk.becomes("plain.gif", "done");
  const link = await desk.link("plain.gif");
  await desk.press("plain.gif", "delete");
  await desk.becomes("plain.gif", "deleted");
  assert.equal((await fetch(link)).status, 404);
  await desk.press("plain.gif", "remove");
  await desk.card("plain.gif").waitFor({ state: "detached" });
  assert.equal(await desk.page.evaluate(() => document.activeElement.id), "pick");
});

pageTest("an image can be pasted", {}, async (desk) => {
  const bytes = [...(await readFile(fixture("plain.png")))];
  await desk.page.evaluate(async (bytes) => {
    const image = new Blob([new Uint8Array(bytes)], { type: "image/png" });
    await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
  }, bytes);
  await desk.page.keyboard.press("Control+V");
  await desk.becomes("image.png", "done");
});

pageTest("an image can be dropped anywhere on the page", {}, async (desk) => {
  const bytes = [...(await readFile(fixture("plain.bmp")))];
  const data = await desk.page.evaluateHandle((bytes) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped.bmp", { type: "image/bmp" }));
    return data;
  }, bytes);
  await desk.page.dispatchEvent("h1", "dragenter", { dataTransfer: data });
  await desk.page.locator("html.dragging").waitFor();
  await desk.shoot("dragging");
  await desk.page.dispatchEvent("h1", "drop", { dataTransfer: data });
  await desk.becomes("dropped.bmp", "done");
  assert.equal(await desk.page.locator("html.dragging").count(), 0);
});

pageTest("the page can be used with the keyboard only", {}, async ({ page, ...desk }) => {
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.id);
  const chooser = page.waitForEvent("filechooser");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "pick");
  await page.keyboard.press("Enter");
  await (await chooser).setFiles([fixture("plain.jpg")]);
  await page.locator('.card[data-state="done"]').waitFor();
  await page.locator("#announce", { hasText: "plain.jpg: uploaded" }).waitFor({ state: "attached" });

  await page.locator(".thumb:enabled").waitFor();
  const order = [];
  for (let stop = 0; stop < 7; stop += 1) {
    await page.keyboard.press("Tab");
    order.push(await focused());
  }
  const card = ["Enlarge plain.jpg", "Link to plain.jpg", "Copy link for plain.jpg", "Open plain.jpg", "Delete plain.jpg"];
  assert.deepEqual(order, ["copy-as", "clear-finished", ...card]);
  await page.keyboard.press("Enter");
  await page.locator('.card[data-state="deleted"]').waitFor();
  await page.waitForFunction(() => document.activeElement.getAttribute("aria-label") === "Clear plain.jpg");
  await page.keyboard.press("Space");
  await page.locator(".card").waitFor({ state: "detached" });
  assert.equal(await focused(), "pick");
});

pageTest("the page prompts for an API key after a 401", { logs: /status of 401/ }, async (desk) => {
  const refusal = { detail: "An API key is needed", code: "unauthorized" };
  await desk.page.route("**/upload-image", (route) => {
    const known = route.request().headers()["x-api-key"] === "secret";
    return known ? route.continue() : route.fulfill({ status: 401, json: refusal });
  });
  assert.equal(await desk.page.locator("#key").isVisible(), false);
  await desk.pick(fixture("plain.png"));
  await desk.becomes("plain.png", "failed");
  await desk.page.locator("#key:focus").waitFor();
  await desk.shoot("key");
  await desk.page.keyboard.type("secret");
  await desk.page.keyboard.press("Enter");
  await desk.becomes("plain.png", "done");
  assert.equal(await desk.page.locator("#key").isVisible(), false);
});

pageTest("a response that is not the service's fails the upload without a retry", { logs: /status of 404/ }, async (desk) => {
  const foreign = { status: 404, contentType: "text/html", body: "<h1>Not found</h1>" };
  await desk.page.route("**/complete?*", (route) => route.fulfill(foreign));
  await desk.page.route("**/upload-image", (route) => route.fulfill({ ...foreign, status: 200 }));
  await desk.pick(fixture("plain.jpg"), await desk.service.png("fourteen.png", 14 * MIB));
  for (const name of ["plain.jpg", "fourteen.png"]) {
    const card = await desk.becomes(name, "failed");
    assert.match(await card.locator(".state").textContent(), /is not the service's/);
  }
  assert.equal(desk.sent("PUT", "/incoming/").length, 1);
  assert.equal(desk.sent("POST", "/upload-image").length, 1);
  await desk.press("fourteen.png", "remove");
});

pageTest("uploads work behind a path prefix without PUBLIC_URL", {}, async (desk) => {
  const proxy = await prefixed("/up", desk.service.url);
  try {
    await desk.page.goto(`${proxy.url}/up/`);
    await desk.page.locator("#limits", { hasText: "up to" }).waitFor();
    const file = await desk.service.png("prefixed.png", 12 * MIB);
    await desk.pick(fixture("plain.jpg"), file);
    for (const name of ["plain.jpg", "prefixed.png"]) await desk.becomes(name, "done");
    assert.equal(desk.sent("PUT", "/incoming/").length, 1);
    for (const request of desk.requests.filter((request) => request.url().startsWith(proxy.url))) {
      assert.ok(new URL(request.url()).pathname.startsWith("/up/"), request.url());
    }
  } finally {
    proxy.close();
  }
});

pageTest("the whole drop area opens the file picker", {}, async ({ page }) => {
  const chooser = page.waitForEvent("filechooser");
  await page.locator(".drop-art").click({ force: true });
  await chooser;
});

pageTest("folders can be dropped", {}, async (desk) => {
  const { page, service } = desk;
  const folder = path.join(service.folder, "holidays");
  await mkdir(path.join(folder, "2026"), { recursive: true });
  for (const name of ["one.png", "2026/two.png", ".hidden.png"]) await copyFile(fixture("plain.png"), path.join(folder, name));
  const session = await desk.context.newCDPSession(page);
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await session.send("Input.dispatchDragEvent", { type, x: 600, y: 400, data });
  }
  await Promise.all(["one.png", "two.png"].map((name) => desk.becomes(name, "done")));
  assert.equal(await page.locator(".card").count(), 2, "hidden files are left out");
});

pageTest("links are copied as Markdown or HTML, one or all", {}, async (desk) => {
  const { page } = desk;
  await desk.pick(fixture("plain.jpg"), fixture("plain.png"));
  await Promise.all(["plain.jpg", "plain.png"].map((name) => desk.becomes(name, "done")));
  const [jpg, png] = [await desk.link("plain.jpg"), await desk.link("plain.png")];
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  await page.getByLabel("Copy as").selectOption("Markdown");
  await page.getByRole("button", { name: "Copy Markdown for plain.jpg" }).click();
  await page.getByText("Copied", { exact: true }).first().waitFor();
  assert.equal(await copied(), `![plain.jpg](${jpg})`);
  await page.getByLabel("Copy as").selectOption("HTML");
  await page.getByRole("button", { name: "Copy all" }).click();
  await page.locator("#announce", { hasText: "2 links copied" }).waitFor({ state: "attached" });
  const sides = ' width="16" height="12"';
  assert.deepEqual((await copied()).split("\n").sort(), [
    `<img src="${jpg}" alt="plain.jpg"${sides}>`,
    `<img src="${png}" alt="plain.png"${sides}>`,
  ].sort());
});

pageTest("forty files show totals, and are listed after a reload until they are cleared", {}, async (desk) => {
  const { page } = desk;
  const buffer = await readFile(fixture("plain.png"));
  await desk.slow(256 << 10);
  await desk.pick(...Array.from({ length: 40 }, (_, i) => {
    // Larger files, so that the queue takes a moment.
    return { name: `holiday ${i}.png`, mimeType: "image/png", buffer: Buffer.concat([buffer, Buffer.alloc(64 << 10)]) };
  }));
  await page.locator("#summary", { hasText: /^\d+ of 40 done · .* of 2.6\sMB · .*\/s · .*left$/ }).waitFor();
  await desk.shoot("forty");
  await desk.slow();
  await page.locator("#summary", { hasText: "40 uploaded" }).waitFor();
  const link = await desk.link("holiday 7.png");

  await page.reload();
  await page.locator("#summary", { hasText: "40 uploaded" }).waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".url")].filter(({ value }) => value).length === 40);
  assert.equal(await desk.link("holiday 7.png"), link);
  assert.equal(await page.locator(".thumb img").count(), 40);
  await desk.press("holiday 7.png", "view");
  await page.locator("#viewer img").waitFor();
  await page.waitForFunction(() => document.querySelector("#viewer img").naturalWidth === 16);
  await page.keyboard.press("Escape");
  await page.locator("#viewer").waitFor({ state: "hidden" });
  await desk.press("holiday 7.png", "delete");
  await desk.becomes("holiday 7.png", "deleted");

  await page.getByRole("button", { name: "Clear finished" }).click();
  assert.equal(await page.locator(".card").count(), 0);
  await page.waitForFunction(() => new Promise((resolve) => {
    indexedDB.open("image-store").onsuccess = ({ target: { result: database } }) => {
      database.transaction("images").objectStore("images").count().onsuccess = ({ target }) => {
        database.close();
        resolve(target.result === 0);
      };
    };
  }));
  await page.reload();
  await page.locator("#limits", { hasText: "up to" }).waitFor();
  assert.equal(await page.locator(".card").count(), 0);
  assert.equal((await fetch(link)).status, 404);
});

pageTest("failed uploads can be retried together", { logs: /status of 500/ }, async (desk) => {
  const refusal = { detail: "The image could not be stored; try again", code: "storage_failed" };
  await desk.page.route("**/upload-image", (route) => route.fulfill({ status: 500, json: refusal }), { times: 2 });
  await desk.pick(fixture("plain.png"), fixture("plain.jpg"));
  await Promise.all(["plain.png", "plain.jpg"].map((name) => desk.becomes(name, "failed")));
  await desk.page.getByRole("button", { name: "Retry failed" }).click();
  await Promise.all(["plain.png", "plain.jpg"].map((name) => desk.becomes(name, "done")));
});

for (const state of ["empty", "uploads"]) {
  for (const colorScheme of ["light", "dark"]) {
    pageTest(`axe finds nothing: ${state}, ${colorScheme}`, { colorScheme, logs: /status of 400/ }, async (desk) => {
      if (state === "uploads") {
        const [image, broken] = [await readFile(fixture("plain.png")), Buffer.from("x")];
        await desk.pick(
          { name: "plain.png", mimeType: "image/png", buffer: image },
          { name: "broken.png", mimeType: "image/png", buffer: broken },
          { name: "a.txt", mimeType: "text/plain", buffer: broken },
        );
        await Promise.all([desk.becomes("plain.png", "done"), desk.becomes("broken.png", "failed"), desk.becomes("a.txt", "failed")]);
      }
      await desk.accessible();
    });
  }
}

for (const width of [375, 768, 1440]) {
  for (const colorScheme of ["light", "dark"]) {
    const options = { viewport: { width, height: 900 }, colorScheme, logs: /status of 400/ };
    pageTest(`layout at ${width} px, ${colorScheme}`, options, async (desk) => {
      const fits = () => desk.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
      assert.ok(await fits(), "no horizontal scrolling when empty");
      await desk.shoot(`empty ${width} ${colorScheme}`);

      const long = `${"a-name-as-cameras-and-phones-and-people-give-it-".repeat(3)}.png`;
      const buffer = await readFile(fixture("plain.png"));
      await desk.pick({ name: long, mimeType: "image/png", buffer }, { name: "broken.png", mimeType: "image/png", buffer: buffer.subarray(0, 5) });
      await desk.becomes(long, "done");
      await desk.becomes("broken.png", "failed");
      await desk.slow(2 * MIB);
      await desk.pick(await desk.service.png(`progress-${width}-${colorScheme}.png`, 20 * MIB));
      await desk.card("progress-", "sending").locator(".state", { hasText: /left/ }).waitFor();
      assert.ok(await fits(), "no horizontal scrolling with uploads");
      const [background, text] = await desk.page.evaluate(() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map((color) => Number(/\d+/.exec(color)[0]));
      });
      assert.equal(background < text, colorScheme === "dark", "the colours must follow the system");
      await desk.shoot(`uploads ${width} ${colorScheme}`);
      await desk.press("progress-", "cancel");
      await desk.becomes("progress-", "canceled");
    });
  }
}
