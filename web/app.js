// The page: takes files, queues their uploads, and shows each of them as a card.

import { call } from "./api.js";
import * as key from "./api-key.js";
import { Card } from "./card.js";
import { intake } from "./file-input.js";
import { limit } from "./format.js";
import { close, granted, reason, root, showEnd } from "./grant.js";
import { restored } from "./history.js";
import { Queue } from "./queue.js";
import { pause } from "./retry.js";
import { onForm, toolbar } from "./toolbar.js";
import { Upload } from "./upload.js";

const list = document.getElementById("list");
const queue = new Queue();
const cards = new Map();
const limits = askLimits();
let form = "";

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
  const { formats, max_upload_size: largest, s3_key: one, expires_at: ends, date, key_required: keyRequired } = known;
  const names = formats.map((format) => format.name.toUpperCase());
  const number = one ? "One image: " : "";
  document.getElementById("limits").textContent = `${number}${names.join(", ")} up to ${limit(largest)}`;
  const types = formats.flatMap((format) => [format.content_type, ...format.extensions.map((name) => `.${name}`)]);
  const files = document.getElementById("files");
  files.accept = types.join(",");
  files.multiple = !one;
  if (keyRequired && !key.get()) key.ask({ focus: false });
  if (!ends) return;
  showEnd(ends, date, () => {
    known.ended = true;
    close(reason("expired_token"));
  });
}

async function take(files) {
  const known = await limits;
  if (!known || known.ended) return;
  const uploads = files.map((file) => new Upload(file, known));
  list.prepend(...uploads.map(show));
  queue.start();
}

/** Adds an upload to the queue, and returns its card. */
function show(upload) {
  const card = new Card(upload, { retry: () => upload.retry(), remove: () => remove(upload) });
  card.form = form;
  cards.set(upload, card);
  queue.add(upload);
  return card.element;
}

function remove(upload) {
  const { element } = cards.get(upload);
  // The focus moves to the neighbouring card, or to the button for choosing images.
  const neighbour = element.nextElementSibling ?? element.previousElementSibling;
  discard(upload);
  (neighbour?.querySelector(".actions [data-do]:not([hidden])") ?? document.getElementById("pick")).focus();
}

function discard(upload) {
  cards.get(upload).element.remove();
  cards.delete(upload);
  queue.remove(upload);
}

/** Lists what this browser has uploaded before. */
async function restore() {
  const uploads = await restored();
  list.append(...uploads.map(show));
  queue.start();
  // One after another, so that they do not delay new uploads.
  for (const upload of uploads) await upload.renew();
}

key.onGiven(() => {
  for (const upload of queue.in("failed")) {
    if (upload.problem.status === 401) upload.retry();
  }
});

addEventListener("beforeunload", (event) => {
  if (queue.active.length > 0) event.preventDefault();
});

document.querySelector(".foot a").href = `${root}docs`;
toolbar(queue, (uploads) => {
  uploads.forEach(discard);
  document.getElementById("pick").focus();
});
onForm((name) => {
  form = name;
  for (const card of cards.values()) card.form = name;
});
intake(take);
limits.then(showLimits);
restore();
