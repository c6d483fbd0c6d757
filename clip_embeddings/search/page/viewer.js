// One picture, large, with what is known of it; in its full size where the server allows that.

let viewed = { list: [], index: -1 };
// Pixels that a finger must move for the next picture.
const SWIPE = 40;

function view(list, index) {
  const result = list[index];
  if (!result) return;
  viewed = { list, index };
  at("name").textContent = nameOf(result.uri);
  at("where").textContent = result.uri;
  at("facts").replaceChildren(...facts(result).map(([name, value]) => fact(name, value)));
  at("labels").replaceChildren(...Object.keys(result.labels ?? {}).map(labelLink));
  at("large").alt = nameOf(result.uri);
  at("viewer").classList.remove("whole");
  at("full").setAttribute("aria-pressed", "false");
  at("full").hidden = !collection?.originals;
  tell(at("viewer-problem"), null);
  enlarge(sized(result, LARGE), list === results ? photo(index)?.querySelector("img.there") : null);
  at("previous").disabled = index === 0;
  at("next").disabled = index === list.length - 1;
  at("copy").textContent = "Copy address";
  const isNew = !at("viewer").open;
  if (isNew) at("viewer").showModal();
  // A button at the end of the list loses the focus.
  if (isNew || document.activeElement?.disabled || document.activeElement === document.body) at("like").focus();
  if (list === results && index > results.length - AHEAD) more();
}

function enlarge(url, standIn) {
  // What is in the grid stands in until the large one has come. Fetched with the key, it is gone by now.
  if (standIn && !sessionStorage.getItem(KEY)) at("large").src = standIn.src;
  else at("large").removeAttribute("src");
  load(at("large"), url, () => tell(at("viewer-problem"), "The picture cannot be shown here."));
}

function facts(result) {
  const found = Object.entries(result.metadata ?? {});
  if (result.updated) found.unshift(["updated", new Date(result.updated).toLocaleString()]);
  if (result.content_type) found.unshift(["type", result.content_type]);
  for (const [part, share] of Object.entries(result.parts ?? {})) found.unshift([`of this, ${part}`, share.toFixed(3)]);
  if (result.score !== undefined) found.unshift(["score", result.score.toFixed(3)]);
  if (result.size) found.push(["size", `${number(Math.ceil(result.size / 1024))} KiB`]);
  return found;
}

function fact(name, value) {
  const row = document.createElement("div");
  row.append(element("dt", name), element("dd", value));
  return row;
}

function labelLink(label) {
  return element("a", label, { href: address("search", { q: label, label }) });
}

function close() {
  if (at("viewer").open) at("viewer").close();
}

// Between the whole picture in the window, and every pixel of the original.
function toggleFull() {
  const result = viewed.list[viewed.index];
  const isWhole = at("viewer").classList.toggle("whole");
  at("full").setAttribute("aria-pressed", isWhole);
  const { uri, generation } = result;
  const inUrl = /generation=(-?\d+)/.exec(result.thumbnail)?.[1] ?? generation;
  enlarge(isWhole ? address("original", { uri, generation: inUrl }) : sized(result, LARGE), null);
}

function turn(step) {
  view(viewed.list, viewed.index + step);
}

at("viewer").addEventListener("close", () => {
  unload(at("large"));
  const { list, index } = viewed;
  viewed = { list: [], index: -1 };
  if (list === results && place() !== "map" && place() !== "duplicates") focusOn(index);
});
at("viewer").addEventListener("click", (event) => {
  if (event.target === at("viewer")) close();
});
let touched = 0;
at("large").addEventListener("touchstart", (event) => (touched = event.touches[0].clientX), { passive: true });
at("large").addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - touched;
  if (Math.abs(moved) > SWIPE && !at("viewer").classList.contains("whole")) turn(-Math.sign(moved));
});
at("close").onclick = close;
at("previous").onclick = () => turn(-1);
at("next").onclick = () => turn(1);
at("full").onclick = toggleFull;
at("like").onclick = () => find({ uri: viewed.list[viewed.index].uri });
at("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(viewed.list[viewed.index].uri);
    at("copy").textContent = "Copied";
  } catch {
    at("copy").textContent = "Select it above";
  }
};
