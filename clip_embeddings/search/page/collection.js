// How many photos there are, which model finds them, and what they show.

let collection = null;
// Labels that are shown at the start.
const LABELS = 24;

async function learnCollection() {
  try {
    collection = await (await ask("collection")).json();
  } catch {
    return;
  }
  const { count, model, labels, sampled, notice } = collection;
  const photos = count === 1 ? "One photo" : `${number(count)} photos`;
  at("count").textContent = count ? `${photos}, found by the model ${model}.` : (notice ?? "There are no photos yet.");
  at("to-map").hidden = at("to-duplicates").hidden = count < 2;
  const about = sampled ? "about " : "";
  const some = labels.slice(0, LABELS).map(({ label, count: carriers }) => {
    const link = labelLink(label);
    link.append(element("small", ` ${number(carriers)}`, { "aria-label": `, ${about}${number(carriers)} photos` }));
    return link;
  });
  at("shown").hidden = some.length === 0;
  at("shown-labels").replaceChildren(...some);
  at("filter-label").replaceChildren(
    element("option", "any", { value: "" }),
    ...labels.map(({ label }) => element("option", label, { value: label })),
  );
  at("label-field").hidden = labels.length === 0;
  dressFilters();
}
