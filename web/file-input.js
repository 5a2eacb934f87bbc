// Adding files: by drag and drop anywhere on the page, with the file picker, or by pasting.

/** Calls `take` with every list of files that is added. */
export function intake(take) {
  const picker = document.getElementById("files");
  document.getElementById("pick").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    take([...picker.files]);
    // So that the same file can be picked again.
    picker.value = "";
  });

  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    take(files);
  });

  drops(take);
}

function drops(take) {
  const root = document.documentElement;
  // Counted, because a child is entered before its parent is left.
  let inside = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = () => root.classList.toggle("dragging", inside > 0);

  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    inside += 1;
    show();
  });
  addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    inside -= 1;
    show();
  });
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", (event) => {
    inside = 0;
    show();
    if (!hasFiles(event)) return;
    event.preventDefault();
    take(files(event.dataTransfer));
  });
}

/** Returns the dropped files without folders, which look like files that cannot be read. */
function files(data) {
  const items = [...data.items].filter((item) => item.kind === "file" && !item.webkitGetAsEntry?.()?.isDirectory);
  return items.map((item) => item.getAsFile());
}
