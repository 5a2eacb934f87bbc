// The card of an upload in the list.

import { announce, write } from "./clipboard.js";
import { moment, size } from "./format.js";
import { granted } from "./grant.js";
import { expiry } from "./links.js";
import { describe } from "./speed.js";
import { copied } from "./toolbar.js";
import { view } from "./viewer.js";

const template = document.getElementById("card");

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
  #form = "Link";

  /** `handlers` contains `retry` and `remove`, which also affect the rest of the page. */
  constructor(upload, handlers) {
    this.#upload = upload;
    this.element = template.content.firstElementChild.cloneNode(true);
    for (const part of ["thumb", "name", "state", "bar", "link", "url", "ends"]) {
      this.#parts[part] = this.element.querySelector(`.${part}`);
    }
    this.#do = {
      ...handlers,
      copy: () => this.#copy(),
      cancel: () => upload.cancel(),
      delete: () => this.#delete(),
      view: () => view(upload),
    };
    this.#label(upload.name);
    this.#show();
    upload.addEventListener("state", () => this.#show());
    upload.addEventListener("progress", () => this.#paintSoon());
    this.#showThumbnail(upload.thumbnail);
  }

  /** Shows in which form links are copied. */
  set form(name) {
    this.#form = name;
    const button = this.#buttons.get("copy");
    button.textContent = `Copy ${name}`;
    button.setAttribute("aria-label", `Copy ${name} for ${this.#upload.name}`);
  }

  async #showThumbnail(thumbnail) {
    const blob = await thumbnail;
    if (!blob) return;
    const image = new Image();
    image.alt = "";
    image.src = URL.createObjectURL(blob);
    await image.decode().catch(() => {});
    URL.revokeObjectURL(image.src);
    this.#parts.thumb.replaceChildren(image);
    this.#parts.thumb.disabled = false;
  }

  #label(name) {
    this.#parts.name.textContent = name;
    this.#parts.name.title = name;
    this.#parts.bar.setAttribute("aria-label", `Progress of ${name}`);
    this.#parts.url.setAttribute("aria-label", `Link to ${name}`);
    for (const button of this.element.querySelectorAll("[data-do]")) {
      const action = button.dataset.do;
      this.#buttons.set(action, button);
      button.setAttribute("aria-label", `${action === "view" ? "Enlarge" : button.textContent} ${name}`);
      if (button.type) button.addEventListener("click", () => this.#do[action]());
    }
  }

  #show() {
    const { state, url, problem, name, canRetry } = this.#upload;
    const had = this.element.contains(document.activeElement) ? document.activeElement : null;
    this.element.dataset.state = state;
    const possible = {
      copy: url !== null,
      open: url !== null,
      retry: canRetry,
      // A grant only allows uploads.
      delete: !granted,
    };
    const offered = ["view", ...ACTIONS[state].filter((action) => possible[action] ?? true)];
    for (const [action, button] of this.#buttons) button.hidden = !offered.includes(action);
    this.#parts.bar.hidden = !this.#upload.active;
    this.#parts.link.hidden = state !== "done" || url === null;
    if (state === "done" && url !== null) {
      this.#parts.url.value = url;
      this.#buttons.get("open").href = url;
      const ends = expiry(url);
      this.#parts.ends.hidden = ends === null;
      this.#parts.ends.textContent = `This link works until ${moment(new Date(ends))}.`;
    }
    // If the focused button disappears, the focus would move to the top of the page.
    if (had && had.closest("[hidden]")) this.#buttons.get(offered[1])?.focus();
    this.#paint();
    const news = state === "failed" ? `failed. ${problem.message}` : NEWS[state];
    if (news) announce(`${name}: ${news}`);
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
    const { size: bytes, sent, state } = this.#upload;
    this.#parts.state.textContent = this.#sentence();
    // Without a value, the progress bar is indeterminate.
    if (state === "verifying") this.#parts.bar.removeAttribute("value");
    else this.#parts.bar.value = bytes > 0 ? sent / bytes : 0;
  }

  #sentence() {
    const { state, size: bytes, sent, speed, image, problem, left } = this.#upload;
    switch (state) {
      case "queued": return `${size(bytes)} · queued`;
      case "sending": return describe(sent, bytes, speed.value);
      case "waiting": return `${size(sent)} of ${size(bytes)} · connection lost, will resume automatically`;
      case "verifying": return `${size(bytes)} · sent, verifying`;
      case "done": return done(image);
      case "failed": return problem.message;
      case "canceling": return "Cancelling…";
      case "canceled": return left ?? "Cancelled. Nothing was stored.";
      default: return "Deleted.";
    }
  }

  async #copy() {
    const button = this.#buttons.get("copy");
    if (!(await write(copied(this.#upload)))) return announce("The browser does not allow this page to copy");
    announce("Copied");
    button.textContent = "Copied";
    setTimeout(() => (this.form = this.#form), 2000);
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
