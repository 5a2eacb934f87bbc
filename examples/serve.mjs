// Serves the pages of the examples, and is their backend: it has the API key and hands out grants.
// README.md says how to run it.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import esbuild from "esbuild";
import { uploadAddress } from "./grant/grant.mjs";

const here = import.meta.dirname;
const scripts = ["axios", "dropzone", "fetch", "filepond", "tus-js", "uppy-5", "uppy-6", "uppy-xhr"];
const pages = ["form", ...scripts];

// Only one version of a package can be installed under its name. That of uppy-5 is below the package `uppy-5`.
const uppy5 = {
  name: "uppy-5",
  setup(build) {
    const resolveDir = path.join(here, "node_modules/uppy-5");
    build.onResolve({ filter: /^@uppy\// }, ({ path, importer, kind }) =>
      importer.includes("/examples/uppy-5/") ? build.resolve(path, { resolveDir, kind }) : null);
  },
};

const { outputFiles } = await esbuild.build({
  entryPoints: scripts.map((page) => path.join(here, page, "main.js")),
  bundle: true,
  format: "esm",
  outdir: here,
  write: false,
  plugins: [uppy5],
});
const bundles = new Map(outputFiles.map((file) => [path.relative(here, file.path), file.contents]));
const types = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html" };

async function render(name) {
  const page = await readFile(path.join(here, name), "utf8");
  return page.replace("{{address}}", uploadAddress("user-42"));
}

const server = createServer(async (request, response) => {
  if (request.method === "POST" && request.url === "/grant") {
    // A real backend checks here who the user is, and whether the user may upload images.
    response.writeHead(200, { "Content-Type": "application/json", "Cache-Control": "no-store" });
    return response.end(JSON.stringify({ url: uploadAddress("user-42") }));
  }
  const name = request.url.slice(1).replace(/\/$/, "/index.html");
  const content = pages.some((page) => name === `${page}/index.html`) ? await render(name) : bundles.get(name);
  response.writeHead(content ? 200 : 404, { "Content-Type": types[path.extname(name)] ?? "text/plain" });
  response.end(content ?? "Not found");
});

server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  console.log(pages.map((page) => `${address}/${page}/`).join("\n"));
});
