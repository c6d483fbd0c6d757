// Pictures of the index: their addresses, and how they are loaded.

function sized(result, size) {
  return `${result.thumbnail.replace(/^\//, "")}&size=${size}`;
}

// Loads a picture into an <img>; `failed` is called where there is none.
async function load(image, url, failed = () => {}) {
  image.classList.remove("there", "small");
  image.dataset.wanted = url;
  const isWanted = () => image.dataset.wanted === url;
  image.onload = () => {
    // Small pictures are shown pixel by pixel: enlarged, they are a blur.
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 128);
    image.classList.add("there");
  };
  image.onerror = () => isWanted() && failed();
  if (!sessionStorage.getItem(KEY)) {
    image.src = url;
    return;
  }
  // An <img> sends no key.
  try {
    const reply = await ask(url, { cache: "default" });
    const local = URL.createObjectURL(await reply.blob());
    image.addEventListener("load", () => URL.revokeObjectURL(local), { once: true });
    if (isWanted()) image.src = local;
  } catch {
    image.onerror();
  }
}

function unload(image) {
  delete image.dataset.wanted;
  image.classList.remove("there", "small");
  image.onload = image.onerror = null;
  image.removeAttribute("src");
}
