// Swagger UI for the OpenAPI description of this service.

// Swagger UI has dark colours, which it uses only on request.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

/** Writes paths as text, because they are inside buttons, which must not contain links. */
const withoutLinks = (system) => ({
  components: { DeepLink: ({ text }) => system.React.createElement("span", null, text) },
});

/** What Swagger UI leaves to be done for screen readers and keyboards: attributes by selector. Null removes one. */
const ATTRIBUTES = {
  // The heading of the page is above it.
  "h1.title": { "aria-level": "2" },
  "select.examples-select-element": { "aria-label": "Example" },
  "input[type=file]": { "aria-label": "File" },
  ".copy-to-clipboard button": { "aria-label": "Copy" },
  ".close-modal": { "aria-label": "Close" },
  // Its text is the better name.
  ".modal-btn.auth": { "aria-label": null },
  // It is a table, and not unique.
  ".responses-table": { role: null },
  // It can be scrolled.
  ".microlight": { tabindex: "0" },
};

function complete() {
  for (const [selector, attributes] of Object.entries(ATTRIBUTES)) {
    for (const element of document.querySelectorAll(selector)) {
      for (const [name, value] of Object.entries(attributes)) {
        if (value === null) element.removeAttribute(name);
        else element.setAttribute(name, value);
      }
    }
  }
}

const docs = document.getElementById("docs");
new MutationObserver(complete).observe(docs, { childList: true, subtree: true });

SwaggerUIBundle({
  url: "openapi.json",
  domNode: docs,
  plugins: [withoutLinks],
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
});
