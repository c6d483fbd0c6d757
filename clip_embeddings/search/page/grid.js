// The results as a grid of cells of one size. Only those near what is visible are elements, however many there are.

// Pixels between cells, below a picture for its name and bar, and of the smallest cell, by the window's width.
const GAP = 14;
const UNDER = 38;
const SMALLEST = { phone: 104, other: 170 };
// Rows above and below the window that are elements, too.
const SPARE = 2;
// Milliseconds that a cell must stay before its picture is asked for: a dragged scroll bar passes many.
const SETTLE = 60;

const cells = new Map();
let results = [];
let threshold = null;
let isWhole = true;
let layout = { columns: 1, cell: 1, row: 1 };
// The cell that Tab goes to.
let current = 0;

function fill(found, { limit = null, whole = true } = {}) {
  for (const index of [...cells.keys()]) drop(index);
  results = found;
  threshold = limit;
  isWhole = whole;
  current = 0;
  measure();
  draw();
}

function extend(found, whole) {
  results = results.concat(found);
  isWhole = whole;
  measure();
  draw();
}

function measure() {
  const width = at("results").clientWidth;
  const least = innerWidth <= 560 ? SMALLEST.phone : SMALLEST.other;
  const columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  const cell = (width - GAP * (columns - 1)) / columns;
  layout = { columns, cell, row: cell + UNDER + GAP };
  const rows = Math.ceil(results.length / columns);
  at("results").style.height = results.length ? `${rows * layout.row - GAP}px` : "0";
}

// Makes the elements of what is visible, in their order, and removes the others.
function draw() {
  const top = scrollY - at("results").offsetTop;
  const { columns, row } = layout;
  const first = Math.max(0, Math.floor(top / row) - SPARE) * columns;
  const end = Math.min(results.length, (Math.ceil((top + innerHeight) / row) + SPARE) * columns);
  const focused = document.activeElement?.closest?.("#results .card");
  for (const [index, card] of cells) if ((index < first || index >= end) && card !== focused) drop(index);
  const wanted = [...cells.keys()].filter((index) => index < first || index >= end);
  for (let index = first; index < end; index++) wanted.push(index);
  let before = null;
  for (const index of wanted.sort((a, b) => a - b)) {
    const card = cells.get(index) ?? made(index);
    const next = before ? before.nextSibling : at("results").firstChild;
    if (card !== next) at("results").insertBefore(card, next);
    if (card.placed !== layout) put(card, index);
    before = card;
  }
  reached(end);
}

function put(card, index) {
  card.placed = layout;
  const { columns, cell, row } = layout;
  card.style.width = `${cell}px`;
  card.style.transform = `translate(${(index % columns) * (cell + GAP)}px, ${Math.floor(index / columns) * row}px)`;
  card.setAttribute("aria-setsize", isWhole ? results.length : -1);
}

function drop(index) {
  const card = cells.get(index);
  clearTimeout(card.waiting);
  unload(card.querySelector("img"));
  card.remove();
  cells.delete(index);
}

function made(index) {
  const result = results[index];
  const card = at("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  const name = nameOf(result.uri);
  const isFar = threshold !== null && result.score < threshold;
  const labels = Object.keys(result.labels ?? {}).slice(0, 3);
  card.setAttribute("aria-posinset", index + 1);
  card.classList.toggle("far", isFar);
  const photo = find(".photo");
  photo.dataset.index = find(".like").dataset.index = index;
  photo.title = labels.length ? `${name} (${labels.join(", ")})` : name;
  photo.tabIndex = index === current ? 0 : -1;
  const score = `score ${result.score.toFixed(2)}${isFar ? ", not close" : ""}`;
  photo.setAttribute("aria-label", [name, ...labels, score].join(", "));
  find(".like").setAttribute("aria-label", `More like ${name}`);
  find(".name").textContent = name;
  find(".score").textContent = result.score.toFixed(2);
  find(".bar").style.setProperty("--part", `${Math.round(100 * result.closeness)}%`);
  const image = find("img");
  card.waiting = setTimeout(() => load(image, sized(result, TILE), () => (find(".none").hidden = false)), SETTLE);
  cells.set(index, card);
  return card;
}

function photo(index) {
  return cells.get(index)?.querySelector(".photo");
}

// Moves the focus to a result, wherever it is.
function focusOn(index) {
  if (index < 0 || index >= results.length) return false;
  const previous = photo(current);
  if (previous) previous.tabIndex = -1;
  current = index;
  // Below the header, which stays in place.
  const above = document.querySelector("header").offsetHeight + GAP;
  const top = at("results").offsetTop + Math.floor(index / layout.columns) * layout.row;
  if (top - above < scrollY) scrollTo({ top: top - above });
  else if (top + layout.row > scrollY + innerHeight) scrollTo({ top: top + layout.row - innerHeight });
  draw();
  photo(index).tabIndex = 0;
  photo(index).focus({ preventScroll: true });
  return true;
}

at("results").addEventListener("focusin", (event) => {
  if (!event.target.classList.contains("photo")) return;
  const previous = photo(current);
  if (previous && previous !== event.target) previous.tabIndex = -1;
  current = Number(event.target.dataset.index);
  event.target.tabIndex = 0;
});
at("results").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const index = Number(button.dataset.index);
  if (button.classList.contains("like")) find({ uri: results[index].uri });
  else view(results, index);
});
addEventListener("scroll", oncePerFrame(draw), { passive: true });
new ResizeObserver(
  oncePerFrame(() => {
    measure();
    draw();
  }),
).observe(document.querySelector("main"));
