// The card of an upload in the list.

import { granted } from "./grant.js";
import { describe, size } from "./pace.js";
import { thumbnail } from "./thumbnail.js";

const template = document.getElementById("card");
const announcer = document.getElementById("announce");

/** The actions in each state, the most likely first. It receives the focus when the focused button disappears. */
const ACTIONS = {
  queued: ["cancel"],
  sending: ["cancel"],
  waiting: ["cancel"],
  verifying: ["cancel"],
  done: ["copy", "open", "delete"],
  failed: ["retry", "remove"],
  canceling: [],
  canceled: ["retry", "remove"],
  deleted: ["remove"],
};

/** Announced to screen readers. Progress is not announced, because it changes continuously. */
const NEWS = {
  waiting: "connection lost; the upload will resume automatically",
  done: "uploaded",
  canceled: "cancelled",
  deleted: "deleted",
};

export class Card {
  #upload;
  #do;
  #parts = {};
  #buttons = new Map();
  #painting = false;
  #deleting = false;

  /** `handlers` contains `retry` and `remove`, which also affect the rest of the page. */
  constructor(upload, handlers) {
    this.#upload = upload;
    this.element = template.content.firstElementChild.cloneNode(true);
    for (const part of ["thumb", "name", "state", "bar", "link", "url"]) {
      this.#parts[part] = this.element.querySelector(`.${part}`);
    }
    this.#do = {
      ...handlers,
      copy: () => this.#copy(),
      cancel: () => upload.cancel(),
      delete: () => this.#delete(),
    };
    this.#label(upload.file.name);
    this.#show();
    upload.addEventListener("state", () => this.#show());
    upload.addEventListener("progress", () => this.#paintSoon());
    thumbnail(upload.file).then((canvas) => canvas && this.#parts.thumb.replaceChildren(canvas));
  }

  #label(name) {
    this.#parts.name.textContent = name;
    this.#parts.name.title = name;
    this.#parts.bar.setAttribute("aria-label", `Progress of ${name}`);
    this.#parts.url.setAttribute("aria-label", `Link to ${name}`);
    for (const button of this.element.querySelectorAll("[data-do]")) {
      const action = button.dataset.do;
      this.#buttons.set(action, button);
      button.setAttribute("aria-label", `${button.textContent} ${action === "copy" ? "to " : ""}${name}`.trim());
      if (button.type) button.addEventListener("click", () => this.#do[action]());
    }
  }

  #show() {
    const { state, url, problem, file } = this.#upload;
    const had = this.element.contains(document.activeElement) ? document.activeElement : null;
    this.element.dataset.state = state;
    // A grant only allows uploads.
    const offered = ACTIONS[state].filter((action) => action !== "delete" || !granted);
    for (const [action, button] of this.#buttons) button.hidden = !offered.includes(action);
    this.#parts.bar.hidden = !this.#upload.active;
    this.#parts.link.hidden = state !== "done";
    if (state === "done") {
      this.#parts.url.value = url;
      this.#buttons.get("open").href = url;
    }
    // If the focused button disappears, the focus would move to the top of the page.
    if (had && had.closest("[hidden]")) this.#buttons.get(offered[0])?.focus();
    this.#paint();
    const news = state === "failed" ? `failed. ${problem.message}` : NEWS[state];
    if (news) announce(`${file.name}: ${news}`);
  }

  #paintSoon() {
    if (this.#painting) return;
    this.#painting = true;
    requestAnimationFrame(() => {
      this.#painting = false;
      this.#paint();
    });
  }

  #paint() {
    const { file, sent, state } = this.#upload;
    this.#parts.state.textContent = this.#sentence();
    // Without a value, the progress bar is indeterminate.
    if (state === "verifying") this.#parts.bar.removeAttribute("value");
    else this.#parts.bar.value = file.size > 0 ? sent / file.size : 0;
  }

  #sentence() {
    const { state, file, sent, pace, image, problem, left } = this.#upload;
    const amount = describe(sent, file.size, pace.speed);
    switch (state) {
      case "queued": return `${size(file.size)} · queued`;
      case "sending": return amount;
      case "waiting": return `${size(sent)} of ${size(file.size)} · connection lost, will resume automatically`;
      case "verifying": return `${size(file.size)} · sent, verifying`;
      case "done": return done(image);
      case "failed": return problem.message;
      case "canceling": return "Cancelling…";
      case "canceled": return left ?? "Cancelled. Nothing was stored.";
      default: return "Deleted.";
    }
  }

  async #copy() {
    const button = this.#buttons.get("copy");
    const copied = await copy(this.#parts.url);
    announce(copied ? "Link copied" : "The link is selected; copy it with the keyboard");
    if (!copied) return;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy link"), 2000);
  }

  async #delete() {
    // Not `disabled`, because the button would lose the focus.
    if (this.#deleting) return;
    this.#deleting = true;
    try {
      await this.#upload.delete();
    } catch (problem) {
      this.#parts.state.textContent = problem.message;
      announce(problem.message);
    } finally {
      this.#deleting = false;
    }
  }
}

function done({ width, height, size: bytes, content_type: type }) {
  const format = type.replace("image/", "").toUpperCase();
  const pixels = width ? `${width} × ${height} · ` : "";
  return `${pixels}${format} · ${size(bytes)}`;
}

/** The Clipboard API requires a secure origin. The deprecated command works on all others. */
async function copy(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    field.focus();
    field.select();
    return document.execCommand("copy");
  }
}

function announce(text) {
  // A new node is announced even if the text is the same.
  announcer.replaceChildren(text);
}
