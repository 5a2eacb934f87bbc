// The large view of an image, opened by its thumbnail.

const dialog = document.getElementById("viewer");
const picture = dialog.querySelector("img");
const caption = dialog.querySelector("p");

// Any click closes it, also one on the backdrop.
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.removeAttribute("src");
});

/** Shows the local file, or the stored image if there is none. */
export function view({ name, file, url }) {
  picture.src = file ? URL.createObjectURL(file) : url;
  picture.alt = name;
  caption.textContent = name;
  dialog.showModal();
}
