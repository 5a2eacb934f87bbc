// For tests of interrupted uploads: a service that can be killed and restarted, and a proxy that stalls or cuts connections.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { MIB, fixture, until } from "./support.js";

/** The service's default part size. */
export const PART = 5 * MIB;
const ROOT = path.resolve(import.meta.dirname, "../..");
const BIN = path.resolve(process.env.BIN ?? path.join(ROOT, "target/release/image-store"));

/** A proxy between clients and the service. Its address stays the same when the service is restarted on another port. */
class Proxy {
  static async start() {
    const proxy = Object.assign(new Proxy(), { connections: new Set(), target: null, stall: null });
    proxy.server = createServer((client) => proxy.pass(client));
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    return Object.assign(proxy, { url: `http://127.0.0.1:${proxy.server.address().port}` });
  }

  pass(client) {
    const upstream = connect(this.target, "127.0.0.1");
    const connection = { client, upstream };
    this.connections.add(connection);
    const close = () => {
      this.connections.delete(connection);
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) socket.on("error", close).on("close", close);
    // A socket that was ended cannot be reset any more, so `cut` would leave it open. It is destroyed instead.
    upstream.pipe(client, { end: false });
    client.on("data", (data) => {
      if (this.stall) this.count(data.length);
      client.pause();
      upstream.write(data, () => this.stall?.reached || client.resume());
    });
  }

  count(bytes) {
    this.stall.left -= bytes;
    if (this.stall.left > 0 || this.stall.reached) return;
    this.stall.reached = true;
    this.stall.resolve();
  }

  /** From now on, passes on about `bytes` bytes from clients and then stalls. Resolves when it does. */
  stallAfter(bytes) {
    return new Promise((resolve) => (this.stall = { left: bytes, reached: false, resolve }));
  }

  /** Cuts all connections. Later ones are passed on without a limit. */
  cut() {
    this.stall = null;
    for (const { client, upstream } of [...this.connections]) {
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    }
  }

  stop() {
    this.cut();
    this.server.close();
  }
}

/** The service behind a proxy, with the embedded store in a temporary folder. */
export class Interruptible {
  static async start(settings = {}) {
    const folder = await mkdtemp(path.join(tmpdir(), "image-store-e2e-"));
    const service = Object.assign(new Interruptible(), { folder, settings, proxy: await Proxy.start() });
    await service.run();
    return service;
  }

  get url() {
    return this.proxy.url;
  }

  async run() {
    const env = { ...process.env, DATA_DIR: path.join(this.folder, "data"), PORT: "0", ...this.settings };
    this.child = spawn(BIN, { env, stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    this.child.stderr.on("data", (text) => (log += text));
    const line = await Promise.race([
      once(createInterface({ input: this.child.stdout }), "line").then(([line]) => line),
      once(this.child, "exit").then(() => assert.fail(`the service did not start:\n${log}`)),
    ]);
    this.proxy.target = Number(/http:\/\/[^:]+:(\d+)/.exec(line)[1]);
  }

  /**
   * Runs `start`, which uploads a file of more than `parts` parts. Resolves when the service has stored this number of parts and
   * receives no more.
   */
  async stallAfterParts(parts, start) {
    const stalled = this.proxy.stallAfter(parts * PART + 2 * MIB);
    const started = await start();
    await stalled;
    await until(`${parts} parts are stored`, async () => (await this.parts()) === parts);
    return started;
  }

  /** Returns the number of whole parts of unfinished uploads. */
  async parts() {
    const folder = path.join(this.folder, "data/uploads");
    const names = await readdir(folder, { recursive: true });
    const sizes = await Promise.all(names.map((name) => stat(path.join(folder, name)).catch(() => null)));
    return sizes.filter((found) => found?.isFile() && found.size >= PART).length;
  }

  /** Kills the service (SIGKILL) and starts it again on the same data. */
  async killAndRestart() {
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
    this.proxy.cut();
    await this.run();
  }

  async stop() {
    this.proxy.stop();
    this.child.kill("SIGTERM");
    const [status] = await once(this.child, "exit");
    await rm(this.folder, { recursive: true });
    assert.equal(status, 0, "the service must stop cleanly");
  }

  /** Writes a PNG of `bytes` bytes and returns its path. */
  async png(name, bytes) {
    const head = await readFile(fixture("plain.png"));
    const file = path.join(this.folder, name);
    await writeFile(file, Buffer.concat([head, randomBytes(bytes - head.length)]));
    return file;
  }

  /** Returns the files of unfinished multipart uploads and of unverified objects. */
  async leftovers() {
    const files = await readdir(path.join(this.folder, "data"), { recursive: true });
    return files.filter((name) => name.includes("incoming%2F") || /^(uploads|tmp)[/]/.test(name));
  }
}
