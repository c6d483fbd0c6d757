// Shows what the address asks for.

const narrow = matchMedia("(max-width: 560px)");

function show(wanted = wish()) {
  stop();
  close();
  leaveMap();
  const where = wanted ? "search" : place();
  dress(wanted, where);
  fill([]);
  if (wanted) return search(wanted);
  if (where === "map") return showMap();
  if (where === "duplicates") return showDuplicates();
}

function dress(wanted, where) {
  const isStart = !wanted && where !== "map" && where !== "duplicates";
  document.body.classList.toggle("start", isStart);
  at("map").hidden = where !== "map";
  at("duplicates").hidden = where !== "duplicates";
  const titles = { map: "Map – Photos", duplicates: "Near-duplicates – Photos" };
  document.title = wanted?.text ? `${wanted.text} – Photos` : (titles[where] ?? "Photos");
  at("query").value = wanted?.text ?? "";
  preview(wanted);
  placeholder();
  dressFilters();
  at("more").textContent = "";
  tell(at("problem"), null);
  tell(at("notice"), null);
  say("");
}

function placeholder() {
  const hasPicture = !at("picture").hidden;
  const long = hasPicture ? "… and say what should be different" : "Describe a photo, or drop one";
  const short = hasPicture ? "… and words" : "Find a photo";
  at("query").placeholder = narrow.matches ? short : long;
}

narrow.addEventListener("change", placeholder);
addEventListener("popstate", () => show());
openFilters(Object.keys(filters()).some((name) => at(`filter-${name}`)));
show();
learnCollection();
if (!wish() && place() !== "map" && matchMedia("(hover: hover)").matches) at("query").focus();
