// A grant in the page's address (/g/{grant}/): the right to upload, with limits of its own and an end, in place of a key.

/** Whether the page was opened by the link of a grant. */
export const granted = /\/g\/[^/]+\/$/.test(location.pathname);

/** Where the service begins. Without the grant: what has a permission of its own, as the links of a plan have, outlives it. */
export const root = new URL(granted ? "../../" : "./", document.baseURI).href;

// A timer takes no longer delay; no grant lives half as long.
const LONGEST = 2 ** 31 - 1;

/** Shows until when the link works, and calls `then` when it does not any more. `now` is the service's clock. */
export function showEnd(ends, now, then) {
  const end = new Date(ends);
  const left = end.getTime() - now;
  const time = { hour: "2-digit", minute: "2-digit" };
  const day = end.toDateString() === new Date().toDateString() ? {} : { weekday: "long" };
  const line = document.getElementById("grant");
  line.textContent = `This link works until ${end.toLocaleString([], { ...day, ...time })}.`;
  line.hidden = false;
  setTimeout(then, Math.min(Math.max(left, 0), LONGEST));
}

/** Says that the link is good for nothing more, and why. What is under way goes on. */
export function close(words) {
  document.getElementById("drop").classList.add("closed");
  document.querySelector(".drop-title").textContent = words;
  for (const element of document.querySelectorAll(".drop-more, #pick, #limits")) element.hidden = true;
  const line = document.getElementById("grant");
  line.textContent = "Nothing more can be sent with it. Ask whoever gave it to you for another one.";
  line.hidden = false;
}

/** Why a link is refused, for people who have never heard of grants. */
export function reason(code) {
  return code === "expired_token" ? "This link has ended" : "This link does not work";
}
