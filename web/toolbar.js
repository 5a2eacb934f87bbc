// The head of the list: totals of the queue, and the actions on all uploads.

import { announce, write } from "./clipboard.js";
import { FORMS } from "./links.js";
import { describe } from "./speed.js";

const FORM = "image-store.copy-as";

const main = document.getElementById("main");
const section = document.getElementById("uploads");
const summary = document.getElementById("summary");
const total = document.getElementById("total");
const select = document.getElementById("copy-as");
const buttons = Object.fromEntries(["copy-all", "retry-failed", "clear-finished"].map((id) => [id, document.getElementById(id)]));

select.value = localStorage.getItem(FORM) ?? "link";
// A form of another release.
if (!FORMS[select.value]) select.value = "link";

/** The text of an upload's link in the selected form. */
export function copied(upload) {
  return FORMS[select.value](upload);
}

/** Calls `then` when another form of links was selected, with its name. */
export function onForm(then) {
  const tell = () => then(select.selectedOptions[0].textContent);
  select.addEventListener("change", () => {
    localStorage.setItem(FORM, select.value);
    tell();
  });
  tell();
}

/** Shows the totals of `queue`. `clear` removes uploads from the page. */
export function toolbar(queue, clear) {
  const linked = () => queue.in("done").filter((upload) => upload.url);
  const failed = () => queue.in("failed").filter((upload) => upload.canRetry);
  const finished = () => queue.in("done", "failed", "canceled", "deleted");

  buttons["copy-all"].addEventListener("click", async () => {
    const all = linked();
    const ok = await write(all.map(copied).join("\n"));
    announce(ok ? `${all.length} links copied` : "The browser does not allow this page to copy");
  });
  buttons["retry-failed"].addEventListener("click", () => failed().forEach((upload) => upload.retry()));
  buttons["clear-finished"].addEventListener("click", () => clear(finished()));

  queue.addEventListener("change", () => {
    const { all, active } = queue;
    main.classList.toggle("empty", all.length === 0);
    main.classList.toggle("many", all.length > 8);
    section.hidden = all.length === 0;
    select.closest("label").hidden = linked().length === 0;
    buttons["copy-all"].hidden = linked().length < 2;
    buttons["retry-failed"].hidden = failed().length === 0;
    buttons["clear-finished"].hidden = finished().length === 0;
    total.hidden = active.length < 2;
    show();
  });
  queue.addEventListener("progress", show);

  function show() {
    const { count, done, size, sent, speed } = queue.totals;
    total.value = size > 0 ? sent / size : 0;
    summary.textContent = count > 1 ? `${done} of ${count} done · ${describe(sent, size, speed)}` : counts(queue);
  }
}

function counts(queue) {
  const said = [[queue.active, "in progress"], [queue.in("done"), "uploaded"], [queue.in("failed"), "failed"]];
  return said.filter(([all]) => all.length > 0).map(([all, what]) => `${all.length} ${what}`).join(" · ");
}
