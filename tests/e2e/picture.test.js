// Makes docs/images/page.png, the picture of the upload page in README.md:
//
//     BIN=target/release/image-store node --test tests/e2e/picture.test.js

import { mkdir } from "node:fs/promises";
import path from "node:path";
import { after, before } from "node:test";
import { MIB, pageTest, start, stop } from "./support.js";

const FOLDER = path.resolve(import.meta.dirname, "../../docs/images");

before(() => start());
after(stop);

/** Draws a landscape in the page. Returns it as a JPEG. */
async function landscape(page, width, height, [sky, glow, far, near]) {
  const drawn = await page.evaluate(
    ([width, height, sky, glow, far, near]) => {
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      const context = canvas.getContext("2d");
      const gradient = context.createLinearGradient(0, 0, 0, height);
      gradient.addColorStop(0, sky);
      gradient.addColorStop(0.7, glow);
      context.fillStyle = gradient;
      context.fillRect(0, 0, width, height);
      context.fillStyle = "#fff6d8";
      context.beginPath();
      context.arc(width * 0.7, height * 0.35, height * 0.09, 0, 7);
      context.fill();
      for (const [color, base, waves] of [[far, 0.62, 3], [near, 0.78, 5]]) {
        context.fillStyle = color;
        context.beginPath();
        context.moveTo(0, height);
        for (let x = 0; x <= width; x += 4) {
          const rise = Math.sin((x / width) * waves * 2.1 + waves) * 0.09 + Math.sin((x / width) * waves * 5) * 0.025;
          context.lineTo(x, height * (base - rise));
        }
        context.lineTo(width, height);
        context.fill();
      }
      return canvas.toDataURL("image/jpeg", 0.92);
    },
    [width, height, sky, glow, far, near],
  );
  return Buffer.from(drawn.split(",")[1], "base64");
}

const options = { viewport: { width: 1440, height: 640 }, colorScheme: "light", logs: /status of 400/ };
pageTest("picture of the page", options, async (desk) => {
  const colors = {
    "harbour-at-dawn.jpg": ["#28527a", "#f4a261", "#3d5a80", "#1d3557"],
    "dunes.jpg": ["#8ecae6", "#fefae0", "#e9c46a", "#bc6c25"],
  };
  for (const [name, palette] of Object.entries(colors)) {
    await desk.pick({ name, mimeType: "image/jpeg", buffer: await landscape(desk.page, 4000, 3000, palette) });
    await desk.becomes(name, "done");
  }
  await desk.pick({ name: "notes.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  await desk.becomes("notes.png", "failed");
  await desk.slow(24 * MIB);
  await desk.pick(await desk.service.png("panorama.png", 180 * MIB));
  await desk.card("panorama.png", "sending").locator(".state", { hasText: /[3-9]\d.* of .*left/ }).waitFor();
  // Away from the drop area, which would be highlighted.
  await desk.page.mouse.move(0, 0);
  await mkdir(FOLDER, { recursive: true });
  const clip = { x: 0, y: 0, width: 1440, height: 620 };
  await desk.page.screenshot({ path: path.join(FOLDER, "page.png"), animations: "disabled", clip });
  await desk.press("panorama.png", "cancel");
  await desk.becomes("panorama.png", "canceled");
});
