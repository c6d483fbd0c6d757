// Asks for results, a page after the other, and says what was found.

// Results of the first request, for a quick answer, and of those after it.
const FIRST = 50;
const NEXT = 100;
// Rows before the end at which more are asked for.
const AHEAD = 6;

let running = null;
let cursor = null;
let isAsking = false;
let failed = false;

function body(wanted, more) {
  const { min_score, ...rest } = filters();
  const { text, picture, uri } = wanted;
  const limit = min_score === undefined ? {} : { min_score: Number(min_score) };
  return { ...(text && { text }), ...(picture && { image: picture }), ...(uri && { uri }), ...rest, ...limit, ...more };
}

async function request(wanted, more, signal) {
  const headers = { "Content-Type": "application/json" };
  const reply = await ask("search", { method: "POST", headers, body: JSON.stringify(body(wanted, more)), signal });
  return reply.json();
}

async function search(wanted) {
  const mine = (running = new AbortController());
  const started = performance.now();
  cursor = null;
  failed = false;
  at("further").hidden = true;
  at("results").classList.add("waiting");
  at("results").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => say("Looking …"), 150);
  try {
    const found = await request(wanted, { k: FIRST }, mine.signal);
    if (mine.signal.aborted) return;
    cursor = found.cursor;
    scrollTo({ top: 0 });
    fill(found.results, { limit: found.threshold, whole: !cursor });
    tell(at("notice"), found.notice);
    say(summary(wanted, found, (performance.now() - started) / 1000));
  } catch (error) {
    if (mine.signal.aborted) return;
    fill([]);
    say("");
    tell(at("problem"), error.message);
    refused();
  } finally {
    clearTimeout(slow);
    if (running === mine) {
      at("results").classList.remove("waiting");
      at("results").removeAttribute("aria-busy");
    }
  }
}

function stop() {
  running?.abort();
  running = null;
  cursor = null;
  at("further").hidden = true;
}

// The grid has come to `end`: asks for more if there are any.
function reached(end) {
  if (cursor && !failed && end > results.length - AHEAD * layout.columns) more();
}

async function more() {
  if (isAsking || !cursor || !running) return;
  const mine = running;
  isAsking = true;
  failed = false;
  at("further").hidden = true;
  try {
    const found = await request(wish(), { k: NEXT, cursor }, mine.signal);
    if (mine.signal.aborted) return;
    cursor = found.cursor;
    isAsking = false;
    extend(found.results, !cursor);
    at("more").textContent = `${number(results.length)} pictures`;
  } catch (error) {
    if (mine.signal.aborted) return;
    failed = true;
    tell(at("problem"), error.message);
    at("further").hidden = false;
  } finally {
    isAsking = false;
  }
}

function summary(wanted, found, seconds) {
  const parts = [];
  if (wanted.text) parts.push(`for “${wanted.text}”`);
  if (wanted.uri) parts.push(`like ${nameOf(wanted.uri)}`);
  if (wanted.picture) parts.push("like yours");
  const { not } = filters();
  const what = parts.join(" ") + (not ? ` without “${not}”` : "");
  const count = found.results.length;
  if (count === 0) return found.notice ? "" : `Nothing found ${what}.`;
  const partly = found.complete ? "" : " Only the nearest 1,000 were filtered.";
  if (found.nothing_close) return `Nothing here is close; these are the nearest ${what}.${partly}`;
  const many = found.cursor ? `The nearest pictures ${what}` : count === 1 ? `One picture ${what}` : `${count} pictures ${what}`;
  return `${many}, in ${seconds.toFixed(2)} s.${partly}`;
}

at("further").onclick = more;
