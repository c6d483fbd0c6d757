// A map of the collection on a canvas: zoomed by wheel, pinch, keys and buttons, moved by dragging.

// Pixels of a picture on the map, and from one picture to the next; a point without one is a dot.
const PLACE = 44;
const CELL = 48;
// How much wider than high the map may be.
const STRETCH = 1.8;
const DOT = 3;
const MOST_ZOOM = 60;
// Pictures that are kept, and that are asked for at once.
const KEPT_BITMAPS = 600;
const ASKED_BITMAPS = 6;
// Pixels that a press may move and still be a click.
const STILL = 5;

let chart = null;

async function showMap() {
  const mine = (chart = { points: [], scale: 1, x: 0, y: 0, bitmaps: new Map(), asked: 0, pressed: new Map() });
  say("Making the map …");
  try {
    for (;;) {
      try {
        const found = await (await ask("map")).json();
        if (chart !== mine) return;
        mine.points = found.points;
        mine.known = null;
        tell(at("notice"), found.notice);
        say(aboutMap(found));
        break;
      } catch (error) {
        // Another request is having it made.
        if (error.code !== "map_pending" || chart !== mine) throw error;
        await new Promise((resolve) => setTimeout(resolve, 2000));
      }
    }
    drawMap();
  } catch (error) {
    if (chart !== mine) return;
    say("");
    tell(at("problem"), error.message);
  }
}

function aboutMap({ points, count }) {
  if (!points.length) return "";
  const some = points.length < count ? `${number(points.length)} of ${number(count)} photos, chosen at random` : `${number(count)} photos`;
  return `${some}. Those that are alike are near each other.`;
}

function leaveMap() {
  for (const bitmap of chart?.bitmaps.values() ?? []) bitmap?.close?.();
  chart = null;
}

// Pixels of the page for a unit of the map in either direction. A wide window is used, up to a point.
function units() {
  const { clientWidth: width, clientHeight: height } = at("canvas");
  const [x, y] = [width / 2 - PLACE, height / 2 - PLACE];
  return [Math.min(x, STRETCH * y) * chart.scale, Math.min(y, STRETCH * x) * chart.scale];
}

// Where a point of the map is on the canvas.
function onCanvas(point) {
  const [x, y] = units();
  return [
    at("canvas").clientWidth / 2 + (point.x - chart.x) * x,
    at("canvas").clientHeight / 2 + (point.y - chart.y) * y,
  ];
}

// The points that are pictures at this zoom: none lies on another one.
function choosePictures() {
  const [x, y] = units();
  const known = `${x},${y}`;
  if (chart.known === known) return;
  chart.known = known;
  const taken = new Map();
  chart.pictures = chart.points.filter((point) => {
    const [px, py] = [point.x * x, point.y * y];
    const [column, row] = [Math.floor(px / CELL), Math.floor(py / CELL)];
    for (let i = column - 1; i <= column + 1; i++) {
      for (let j = row - 1; j <= row + 1; j++) {
        const other = taken.get(`${i},${j}`);
        if (other && Math.abs(other[0] - px) < CELL && Math.abs(other[1] - py) < CELL) return false;
      }
    }
    taken.set(`${column},${row}`, [px, py]);
    return true;
  });
}

const drawMap = oncePerFrame(() => {
  if (!chart) return;
  const canvas = at("canvas");
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, width, height);
  brush.imageSmoothingQuality = "high";
  choosePictures();
  const isNear = ([x, y]) => x > -PLACE && y > -PLACE && x < width + PLACE && y < height + PLACE;
  brush.fillStyle = getComputedStyle(canvas).getPropertyValue("--dot");
  for (const point of chart.points) {
    const [x, y] = onCanvas(point);
    if (!isNear([x, y])) continue;
    brush.beginPath();
    brush.arc(x, y, DOT, 0, 2 * Math.PI);
    brush.fill();
  }
  chart.visible = chart.pictures.filter((point) => isNear(onCanvas(point)));
  for (const point of chart.visible) drawPicture(brush, point, ...onCanvas(point));
});

function drawPicture(brush, point, x, y) {
  const bitmap = chart.bitmaps.get(point.uri);
  if (!bitmap) {
    if (bitmap === undefined) fetchBitmap(point);
    return;
  }
  const scale = PLACE / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  brush.save();
  brush.beginPath();
  brush.roundRect(x - width / 2, y - height / 2, width, height, 6);
  brush.clip();
  brush.drawImage(bitmap, x - width / 2, y - height / 2, width, height);
  brush.restore();
}

async function fetchBitmap(point) {
  const mine = chart;
  if (mine.asked >= ASKED_BITMAPS) return;
  mine.asked++;
  let bitmap = null;
  // Asked for once, even if there is none.
  mine.bitmaps.set(point.uri, null);
  try {
    const reply = await ask(sized(point, Math.min(320, Math.ceil(PLACE * devicePixelRatio))), { cache: "default" });
    bitmap = await createImageBitmap(await reply.blob());
  } catch {
    // It stays a dot.
  }
  mine.asked--;
  if (chart !== mine) return bitmap?.close();
  mine.bitmaps.set(point.uri, bitmap);
  if (mine.bitmaps.size > KEPT_BITMAPS) forgetBitmap(mine);
  drawMap();
}

function forgetBitmap({ bitmaps, visible }) {
  const shown = new Set(visible.map((point) => point.uri));
  for (const [uri, bitmap] of bitmaps) {
    if (shown.has(uri)) continue;
    bitmap?.close();
    bitmaps.delete(uri);
    return;
  }
}

// Zooms by a factor; what is at (x, y) of the canvas stays there.
function zoom(factor, x = at("canvas").clientWidth / 2, y = at("canvas").clientHeight / 2) {
  const scale = clamp(chart.scale * factor, 1, MOST_ZOOM);
  const change = 1 - chart.scale / scale;
  const [unitX, unitY] = units();
  chart.x = clamp(chart.x + ((x - at("canvas").clientWidth / 2) / unitX) * change, -1, 1);
  chart.y = clamp(chart.y + ((y - at("canvas").clientHeight / 2) / unitY) * change, -1, 1);
  chart.scale = scale;
  if (scale === 1) chart.x = chart.y = 0;
  drawMap();
}

function move(dx, dy) {
  const [x, y] = units();
  chart.x = clamp(chart.x - dx / x, -1, 1);
  chart.y = clamp(chart.y - dy / y, -1, 1);
  drawMap();
}

// The point nearest to a place of the canvas; pictures lie above dots.
function pointAt(x, y, reach = PLACE / 2) {
  let best = null;
  let least = reach;
  for (const point of chart.visible ?? []) {
    const [px, py] = onCanvas(point);
    const far = Math.max(Math.abs(px - x), Math.abs(py - y));
    if (far <= least) [best, least] = [point, far];
  }
  if (best) return best;
  for (const point of chart.points) {
    const [px, py] = onCanvas(point);
    const far = Math.hypot(px - x, py - y);
    if (far < least) [best, least] = [point, far];
  }
  return best;
}

function middle() {
  return pointAt(at("canvas").clientWidth / 2, at("canvas").clientHeight / 2, Infinity);
}

function placed(event) {
  const box = at("canvas").getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

at("canvas").addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoom(Math.exp(-clamp(event.deltaY, -100, 100) / 400), ...placed(event));
  },
  { passive: false },
);
at("canvas").addEventListener("pointerdown", (event) => {
  at("canvas").setPointerCapture(event.pointerId);
  chart.pressed.set(event.pointerId, placed(event));
  chart.moved = chart.pressed.size > 1 ? Infinity : 0;
});
at("canvas").addEventListener("pointermove", (event) => {
  const before = chart?.pressed.get(event.pointerId);
  const now = chart && placed(event);
  if (!before) {
    if (chart) at("canvas").classList.toggle("over", Boolean(pointAt(...now)));
    return;
  }
  const others = [...chart.pressed.entries()].filter(([id]) => id !== event.pointerId);
  chart.pressed.set(event.pointerId, now);
  chart.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (!others.length) return move(now[0] - before[0], now[1] - before[1]);
  const [, other] = others[0];
  const apart = (from) => Math.max(20, Math.hypot(from[0] - other[0], from[1] - other[1]));
  zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
});
for (const kind of ["pointerup", "pointercancel"]) {
  at("canvas").addEventListener(kind, (event) => {
    if (!chart?.pressed.delete(event.pointerId) || kind === "pointercancel" || chart.moved > STILL) return;
    const point = pointAt(...placed(event));
    if (point) view([point], 0);
  });
}
function inMap(event) {
  const steps = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
  if (event.key in steps) move(...steps[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (event.key === "0") zoom(0);
  else if (event.key === "Enter" && middle()) view([middle()], 0);
  else return;
  event.preventDefault();
  // For those who cannot see it.
  const point = middle();
  if (point && event.key !== "Enter") at("middle").textContent = `In the middle: ${point.label ?? nameOf(point.uri)}`;
}

at("zoom-in").onclick = () => zoom(1.6);
at("zoom-out").onclick = () => zoom(1 / 1.6);
at("zoom-all").onclick = () => zoom(0);
new ResizeObserver(() => drawMap()).observe(at("canvas"));
