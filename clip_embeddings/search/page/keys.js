// Typing, clicking, and everything without a mouse.

at("form").onsubmit = (event) => {
  event.preventDefault();
  const text = at("query").value.trim();
  const { picture, uri } = wish() ?? {};
  // Words beside a picture are looked for in pictures like it.
  const beside = at("picture").hidden ? {} : { ...(picture && { picture }), ...(uri && { uri }) };
  if (!text && !picture && !uri) return;
  find({ ...(text && { text }), ...beside });
  // A phone's keyboard covers the results.
  if (matchMedia("(hover: none)").matches) at("query").blur();
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || link.target || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("ask").open) return;
  if (at("viewer").open) return inViewer(event);
  const { target, key } = event;
  const isField = target.matches?.("input, select, textarea");
  const isTyping = target === at("query");
  if (key === "/" && !isField) {
    event.preventDefault();
    at("query").focus();
    at("query").select();
  } else if (key === "Escape" && isTyping) {
    if (at("query").value) at("query").value = "";
    else at("query").blur();
    event.preventDefault();
  } else if (key === "Escape") {
    at("query").focus();
  } else if (key === "ArrowDown" && isTyping) {
    if (focusOn(current)) event.preventDefault();
  } else if (chart?.points.length && (target === at("canvas") || target === document.body)) {
    inMap(event);
  } else if (target.closest?.("#results .photo")) {
    inGrid(event, Number(target.dataset.index));
  } else if (target === document.body && results.length) {
    // A link was opened: the keys mean the results at once.
    if (key === "Enter") view(results, current);
    else if (key.startsWith("Arrow")) focusOn(current);
    else return;
    event.preventDefault();
  }
});

function inViewer(event) {
  if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "ArrowRight") turn(1);
  else if (event.key === "m") at("like").click();
  else if (event.key === "f" && !at("full").hidden) toggleFull();
}

function inGrid(event, index) {
  const { columns } = layout;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const end = results.length - 1;
  if (event.key === "m") find({ uri: results[index].uri });
  else if (event.key === "Home") focusOn(0);
  else if (event.key === "End") focusOn(end);
  else if (!(event.key in steps)) return;
  else if (event.key === "ArrowUp" && index < columns) at("query").focus();
  else focusOn(clamp(index + steps[event.key], 0, end));
  event.preventDefault();
}
