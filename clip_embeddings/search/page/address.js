// The address says what is shown: search?q=..., similar?uri=..., map, duplicates. A dropped picture is in
// history.state, because no address is long enough for it.

const FILTERS = ["not", "prefix", "after", "before", "label", "content_type", "min_score", "model"];

// What the address asks for: any of text, picture and uri; null for nothing.
function wish() {
  const query = new URLSearchParams(location.search);
  const wanted = {};
  if (query.get("q")?.trim()) wanted.text = query.get("q");
  if (history.state?.picture) wanted.picture = history.state.picture;
  else if (query.get("uri")) wanted.uri = query.get("uri");
  return Object.keys(wanted).length ? wanted : null;
}

// The last part of the path: "", "search", "similar", "map" or "duplicates".
function place() {
  return location.pathname.split("/").pop();
}

function filters() {
  const query = new URLSearchParams(location.search);
  const set = FILTERS.map((name) => [name, query.get(name)?.trim()]);
  return Object.fromEntries(set.filter(([, value]) => value));
}

function address(path, values) {
  return `${path}?${new URLSearchParams(values)}`;
}

function addressOf(wanted, set = filters()) {
  const { text, uri } = wanted;
  return address(uri && !text ? "similar" : "search", { ...(text && { q: text }), ...(uri && { uri }), ...set });
}

// Goes to what is wanted. The picture of a wish goes into history.state.
function find(wanted, set = filters()) {
  go(addressOf(wanted, set), wanted.picture ? { picture: wanted.picture } : null);
}

function go(url, state = null) {
  try {
    history.pushState(state, "", url);
  } catch {
    // A picture too large for this browser's history: shown now, not after Back.
    history.pushState(null, "", url);
    return show({ ...wish(), ...state });
  }
  return show();
}
