// What the results are limited to: a form below the box, whose values are in the address.

// Those that have a field in the form.
function countFilters() {
  return Object.keys(filters()).filter((name) => at(`filter-${name}`)).length;
}

function dressFilters() {
  const set = filters();
  for (const name of FILTERS) if (at(`filter-${name}`)) choose(at(`filter-${name}`), set[name] ?? "");
  const count = countFilters();
  at("filter-count").textContent = count ? String(count) : "";
  at("show-filters").setAttribute("aria-label", count ? `Filters, ${count} set` : "Filters");
  at("clear-filters").hidden = count === 0;
}

// A link may name a label that no photo carries, or a type that is not in the list.
function choose(field, value) {
  const options = [...(field.options ?? [])];
  if (options.length && !options.some((option) => option.value === value)) field.append(element("option", value, { value }));
  field.value = value;
}

function openFilters(isOpen) {
  at("filters").hidden = !isOpen;
  at("show-filters").setAttribute("aria-expanded", isOpen);
}

function applyFilters() {
  const set = filters();
  for (const name of FILTERS) {
    const field = at(`filter-${name}`);
    if (!field) continue;
    if (field.value.trim()) set[name] = field.value.trim();
    else delete set[name];
  }
  const wanted = wish() ?? (at("query").value.trim() ? { text: at("query").value.trim() } : null);
  if (wanted) find(wanted, set);
  else history.replaceState(history.state, "", address(location.pathname.split("/").pop() || "./", set));
  dressFilters();
}

at("show-filters").onclick = () => openFilters(at("filters").hidden);
at("filters").onsubmit = (event) => {
  event.preventDefault();
  applyFilters();
};
at("filters").addEventListener("change", applyFilters);
at("clear-filters").onclick = () => {
  for (const name of FILTERS) if (at(`filter-${name}`)) at(`filter-${name}`).value = "";
  applyFilters();
};
