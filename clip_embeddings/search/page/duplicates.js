// Groups of photos that are almost the same, side by side. Nothing can be removed from here.

// Groups of one page, and members of a group that are shown: so many elements at most.
const GROUPS = 20;
const MEMBERS = 12;

async function showDuplicates() {
  at("groups").replaceChildren();
  at("next-groups").hidden = true;
  const mine = (running = new AbortController());
  say("Looking …");
  try {
    const from = new URLSearchParams(location.search).get("cursor");
    const url = address("duplicates", { k: GROUPS, ...(from && { cursor: from }) });
    const found = await (await ask(url, { signal: mine.signal })).json();
    if (mine.signal.aborted) return;
    at("groups").replaceChildren(...found.groups.map(group));
    tell(at("notice"), found.notice);
    at("next-groups").hidden = !found.cursor;
    if (found.cursor) at("next-groups").href = address("duplicates", { cursor: found.cursor });
    say(found.groups.length ? `Photos that are almost the same (${made(found)})` : "");
    scrollTo({ top: 0 });
  } catch (error) {
    if (mine.signal.aborted) return;
    say("");
    tell(at("problem"), error.message);
  }

  function made({ made: time, threshold: least }) {
    const since = time ? `, compared ${new Date(time).toLocaleString()}` : "";
    return `${least === null ? "" : `a score of ${least} or more`}${since}`;
  }
}

function group({ score, count, members }) {
  const row = element("section", "", { class: "group" });
  row.append(element("h2", `${number(count)} photos, score ${score.toFixed(3)}`));
  const list = element("ul", "");
  members.slice(0, MEMBERS).forEach((member, index) => list.append(twin(members, member, index)));
  if (count > MEMBERS) list.append(element("li", `and ${number(count - MEMBERS)} more`));
  row.append(list);
  return row;
}

function twin(members, member, index) {
  const item = element("li", "");
  const name = nameOf(member.uri);
  const button = element("button", "", { type: "button", class: "photo", "aria-label": name, title: member.uri });
  const image = element("img", "", { alt: "", loading: "lazy" });
  button.append(image);
  button.onclick = () => view(members, index);
  load(image, sized(member, TILE));
  const size = member.size ? `${number(Math.ceil(member.size / 1024))} KiB` : "";
  const day = member.updated ? new Date(member.updated).toLocaleDateString() : "";
  // Copies often have the same name.
  const folder = nameOf(member.uri.slice(0, -name.length - 1));
  item.append(
    button,
    element("span", name, { class: "name", dir: "auto" }),
    element("small", [size, day].filter(Boolean).join(", ")),
    element("small", folder && `in ${folder}`, { dir: "auto" }),
  );
  return item;
}
