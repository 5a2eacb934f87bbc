// The page: adds files, queues their uploads, and shows each of them as a card.

import { call } from "./api.js";
import { Card } from "./card.js";
import { close, granted, reason, root, showEnd } from "./grant.js";
import { pause } from "./retry.js";
import { intake } from "./file-input.js";
import * as key from "./api-key.js";
import { size } from "./pace.js";
import { Upload } from "./upload.js";

// Browsers open six connections per host. Two files use them all, because large files are sent in four parts at once.
const AT_ONCE = 2;

const main = document.getElementById("main");
const section = document.getElementById("uploads");
const list = document.getElementById("list");
const summary = document.getElementById("summary");
const uploads = new Set();
const limits = askLimits();

/** The limits of the service, or of the grant. Requested until they are known, because the upload method depends on them. */
async function askLimits() {
  const never = new AbortController().signal;
  for (;;) {
    try {
      const { body, date } = await call("GET", "limits", { open: true });
      return { ...body, date };
    } catch (problem) {
      if (granted && problem.status === 401) {
        close(reason(problem.code));
        return null;
      }
      document.getElementById("limits").textContent = "The service does not respond. Retrying…";
      await pause(2000, never, "online");
    }
  }
}

function showLimits(known) {
  if (!known) return;
  const { formats, max_upload_size: largest, s3_key: one, expires_at: ends, date } = known;
  const names = formats.map((format) => format.name.toUpperCase());
  const number = one ? "One image: " : "";
  document.getElementById("limits").textContent = `${number}${names.join(", ")} up to ${size(largest).replace(".0", "")}`;
  const types = formats.flatMap((format) => [format.content_type, ...format.extensions.map((name) => `.${name}`)]);
  const files = document.getElementById("files");
  files.accept = types.join(",");
  files.multiple = !one;
  if (!ends) return;
  showEnd(ends, date, () => {
    known.ended = true;
    close(reason("expired_token"));
  });
}

async function take(files) {
  const known = await limits;
  if (!known || known.ended) return;
  for (const file of files) {
    const upload = new Upload(file, known);
    const card = new Card(upload, {
      retry: () => upload.retry(),
      remove: () => remove(upload, card),
    });
    uploads.add(upload);
    upload.addEventListener("state", next);
    list.prepend(card.element);
  }
  next();
}

function remove(upload, card) {
  uploads.delete(upload);
  upload.forget();
  // The focus moves to the neighbouring card, or to the button for choosing images.
  const neighbour = card.element.nextElementSibling ?? card.element.previousElementSibling;
  card.element.remove();
  const target = neighbour?.querySelector("[data-do]:not([hidden])") ?? document.getElementById("pick");
  next();
  target.focus();
}

/** Starts queued uploads, and updates the summary. */
function next() {
  const all = [...uploads];
  const waiting = all.filter((upload) => upload.state === "queued");
  const running = all.filter((upload) => upload.active).length - waiting.length;
  for (const upload of waiting.slice(0, Math.max(0, AT_ONCE - running))) {
    // Starting an upload fires an event that calls this function again, which may have started the next one already.
    if (upload.state === "queued") upload.run();
  }

  main.classList.toggle("empty", all.length === 0);
  section.hidden = all.length === 0;
  const count = (state) => all.filter((upload) => upload.state === state).length;
  const active = all.filter((upload) => upload.active).length;
  const said = [[active, "in progress"], [count("done"), "done"], [count("failed"), "failed"]];
  summary.textContent = said.filter(([number]) => number > 0).map(([number, what]) => `${number} ${what}`).join(" · ");
}

key.onGiven(() => {
  for (const upload of uploads) {
    if (upload.problem?.status === 401) upload.retry();
  }
});

addEventListener("beforeunload", (event) => {
  if ([...uploads].some((upload) => upload.active)) event.preventDefault();
});

document.querySelector(".foot a").href = `${root}docs`;
intake(take);
limits.then(showLimits);
