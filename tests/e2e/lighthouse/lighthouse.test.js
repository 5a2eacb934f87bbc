// Audits the pages with Lighthouse, as a phone with a slow network shows them (simulated).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch } from "chrome-launcher";
import lighthouse from "lighthouse";
import { BROWSER, Service } from "../support.js";

const KEY = "a-key-that-no-browser-ever-sees";
/** Audits of performance whose result does not depend on the speed of this machine. */
const PERFORMANCE = [
  "cumulative-layout-shift",
  "dom-size",
  "total-byte-weight",
  "unminified-css",
  "unused-css-rules",
  "unused-javascript",
  "uses-long-cache-ttl",
  "uses-text-compression",
];
/** Swagger UI is one file of 1.5 MB that contains more than the page uses. Its contents are shown when it has run. */
const SWAGGER_UI = ["cumulative-layout-shift", "dom-size", "total-byte-weight", "unused-css-rules", "unused-javascript"];

let service, browser;

before(async () => {
  service = await Service.start({ API_KEYS: KEY });
  browser = await launch({ chromePath: BROWSER.executablePath, chromeFlags: ["--headless=new", ...BROWSER.args], logLevel: "error" });
});

after(async () => {
  browser?.kill();
  await service?.stop();
});

/** Asserts that everything is at 100, except for the speed, which depends on the machine. Prints all scores. */
async function audit(context, path, { except = [] } = {}) {
  const { lhr } = await lighthouse(new URL(path, service.url).href, { port: browser.port, logLevel: "error" });
  assert.equal(lhr.runtimeError, undefined);
  const scores = Object.fromEntries(Object.values(lhr.categories).map(({ id, score }) => [id, Math.round(score * 100)]));
  context.diagnostic(JSON.stringify(scores));
  const { performance, ...others } = scores;
  const failed = Object.values(lhr.audits).filter(({ score }) => score !== null && score < 1).map(({ id }) => id);
  assert.deepEqual(others, { accessibility: 100, "best-practices": 100, seo: 100 }, failed.join(", "));
  const slow = PERFORMANCE.filter((id) => lhr.audits[id].score !== null && lhr.audits[id].score < 0.9);
  assert.deepEqual(slow, except.filter((id) => slow.includes(id)));
}

async function grant() {
  const headers = { Authorization: `Bearer ${KEY}`, "Content-Type": "application/json" };
  const answer = await fetch(new URL("/grants", service.url), { method: "POST", headers, body: "{}" });
  return (await answer.json()).grant;
}

test("upload page", (context) => audit(context, "/"));
test("upload page with a grant", async (context) => audit(context, `/g/${await grant()}/`));
test("docs", (context) => audit(context, "/docs", { except: SWAGGER_UI }));
