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
  addEventListener("drop", async (event) => {
    inside = 0;
    show();
    if (!hasFiles(event)) return;
    event.preventDefault();
    take(await files(event.dataTransfer));
  });
}

/** Resolves with the dropped files, and those in dropped folders. */
async function files(data) {
  // The items are valid only during the event, so all are read before anything is awaited.
  const items = [...data.items].filter((item) => item.kind === "file");
  const found = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    return entry?.isDirectory ? inFolder(entry) : [item.getAsFile()];
  });
  return (await Promise.all(found)).flat();
}

/** Resolves with the files of a folder and its folders, except hidden ones such as `.DS_Store`. */
async function inFolder(folder) {
  const reader = folder.createReader();
  const entries = [];
  // A browser returns the entries in batches, and an empty batch at the end.
  for (let batch = [null]; batch.length > 0; entries.push(...batch)) {
    batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
  }
  const visible = entries.filter((entry) => !entry.name.startsWith("."));
  const found = visible.map((entry) => (entry.isDirectory ? inFolder(entry) : file(entry)));
  return (await Promise.all(found)).flat();
}

function file(entry) {
  return new Promise((resolve) => entry.file((file) => resolve([file]), () => resolve([])));
}
