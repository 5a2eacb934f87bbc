// Copying texts, and announcing what happened to screen readers.

const announcer = document.getElementById("announce");

/** Copies a text. Resolves with whether the browser allowed it. */
export async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The Clipboard API requires a secure origin. The deprecated command works on all others.
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "unseen";
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}

export function announce(text) {
  // A new node is announced even if the text is the same.
  announcer.replaceChildren(text);
}
