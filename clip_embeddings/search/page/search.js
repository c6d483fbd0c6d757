"use strict";
// The address says what is shown: search?q=..., similar?uri=..., or a dropped picture in history.state.
// Text of objects only ever becomes textContent or an attribute; nothing here makes HTML from strings.
(() => {
  const at = (id) => document.getElementById(id);
  const FIRST = 48;
  const MOST = 100;
  const TILE = 360;
  const LARGE = 1280;
  // Above this many bytes a picture is made smaller before it is sent: no model looks at more pixels.
  const SMALL = 400_000;
  const SIDE = 1024;
  const KEY = "api-key";

  let shown = [];
  let open = -1;
  let running = null;

  // ---- asking the server

  async function ask(url, options = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = { Accept: "*/*", ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
      let reply;
      try {
        // Kept out of the cache by default: the address of a search is also the address of this page.
        reply = await fetch(url, { cache: "no-store", ...options, headers });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Error("The server cannot be reached. Is it still running?");
      }
      if (reply.ok) return reply;
      if (reply.status === 401) {
        // Another request may have learnt the key meanwhile.
        if (sessionStorage.getItem(KEY) !== key || (await askForKey(key !== null))) continue;
        throw new Error("These photos are locked: the server wants its API key.");
      }
      throw new Error(await words(reply));
    }
  }

  async function words(reply) {
    try {
      return (await reply.json()).error.message;
    } catch {
      return `The server answered with an error (${reply.status}). Try again in a moment.`;
    }
  }

  let asking = null;

  function askForKey(wrong) {
    asking ??= new Promise((resolve) => {
      const dialog = at("ask");
      if (wrong) at("key-words").textContent = "That was not the key. Try again; it is sent only to this server.";
      at("key").value = "";
      dialog.returnValue = "";
      at("key-form").onsubmit = () => {
        sessionStorage.setItem(KEY, at("key").value.trim());
        dialog.returnValue = "given";
      };
      at("no-key").onclick = () => dialog.close("");
      dialog.onclose = () => {
        const given = at("key").value !== "" && dialog.returnValue === "given";
        asking = null;
        resolve(given);
      };
      dialog.showModal();
      at("key").focus();
    });
    return asking;
  }

  // ---- what the address asks for

  function wish() {
    const query = new URLSearchParams(location.search);
    const picture = history.state?.picture;
    if (picture) return { picture };
    if (query.get("uri")) return { uri: query.get("uri") };
    if (query.get("q")?.trim()) return { text: query.get("q") };
    return null;
  }

  function limits() {
    const query = new URLSearchParams(location.search);
    return [...query].filter(([name]) => ["prefix", "min_score", "model"].includes(name));
  }

  function address(path, values) {
    return `${path}?${new URLSearchParams([...Object.entries(values), ...limits()])}`;
  }

  function go(url, state = null) {
    try {
      history.pushState(state, "", url);
    } catch {
      // A picture too large for this browser's history: shown now, not after Back.
      history.pushState(null, "", url);
      return show({ wish: state });
    }
    return show();
  }

  function request(wanted, k, signal) {
    if (wanted.uri) return ask(address("similar", { uri: wanted.uri, k }), { signal });
    const more = Object.fromEntries(limits());
    if ("min_score" in more) more.min_score = Number(more.min_score);
    const what = wanted.picture ? { image: wanted.picture } : { text: wanted.text };
    const headers = { "Content-Type": "application/json" };
    return ask("search", { method: "POST", headers, body: JSON.stringify({ ...what, k, ...more }), signal });
  }

  // ---- showing

  async function show({ k = FIRST, wish: wanted = wish(), keep = false } = {}) {
    running?.abort();
    const mine = (running = new AbortController());
    close();
    dress(wanted);
    if (!wanted) return fill([]);
    const started = performance.now();
    at("results").classList.add("waiting");
    at("results").setAttribute("aria-busy", "true");
    const slow = setTimeout(() => say("Looking …"), 150);
    try {
      const reply = await request(wanted, k, mine.signal);
      const found = await reply.json();
      if (mine.signal.aborted) return;
      const seconds = (performance.now() - started) / 1000;
      fill(found.results, keep);
      at("further").hidden = found.results.length < k || k >= MOST;
      tell(at("notice"), found.notice);
      say(summary(wanted, found.results.length, seconds, Boolean(found.notice)));
    } catch (error) {
      if (mine.signal.aborted) return;
      fill([]);
      say("");
      tell(at("problem"), error.message);
    } finally {
      clearTimeout(slow);
      if (running === mine) {
        at("results").classList.remove("waiting");
        at("results").removeAttribute("aria-busy");
      }
    }
  }

  function dress(wanted) {
    document.body.classList.toggle("start", !wanted);
    document.title = wanted?.text ? `${wanted.text} – Photos` : "Photos";
    at("query").value = wanted?.text ?? "";
    at("picture").hidden = !(wanted?.picture || wanted?.uri);
    at("query").placeholder = at("picture").hidden ? "Describe a photo, or drop one" : "… or describe a photo";
    // A picture of another site is the server's to fetch; this page loads nothing from anywhere else.
    if (wanted?.picture?.startsWith("data:")) at("preview").src = wanted.picture;
    else at("preview").removeAttribute("src");
    if (wanted?.uri) load(at("preview"), address("thumbnail", { uri: wanted.uri, size: TILE }));
    at("further").hidden = true;
    tell(at("problem"), null);
    tell(at("notice"), null);
    say("");
  }

  function summary(wanted, count, seconds, told) {
    const what = wanted.text ? `for “${wanted.text}”` : wanted.uri ? `like ${nameOf(wanted.uri)}` : "like yours";
    if (count === 0) return told ? "" : `Nothing found ${what}.`;
    return `${count === 1 ? "One picture" : `${count} pictures`} ${what}, in ${seconds.toFixed(2)} s`;
  }

  function say(text) {
    at("status").textContent = text;
  }

  function tell(element, text) {
    element.hidden = !text;
    element.textContent = text ?? "";
  }

  function fill(results, keep = false) {
    const before = keep ? shown.length : 0;
    shown = results;
    const best = Math.max(...results.map((result) => result.score), 1e-6);
    const cards = results.map((result, index) => card(result, index, Math.max(0, result.score / best)));
    at("results").replaceChildren(...cards);
    if (keep) photo(before)?.focus();
    else scrollTo({ top: 0 });
    const first = photo(keep ? before : 0);
    if (first) first.tabIndex = 0;
  }

  function card(result, index, part) {
    const made = at("card").content.cloneNode(true);
    const find = (selector) => made.querySelector(selector);
    const name = nameOf(result.uri);
    find("img").alt = name;
    find("img").dataset.url = sized(result, TILE);
    find(".photo").title = name;
    find(".photo").dataset.index = index;
    find(".photo").setAttribute("aria-label", `${name}, score ${result.score.toFixed(2)}`);
    find(".like").dataset.index = index;
    find(".name").textContent = name;
    find(".score").textContent = result.score.toFixed(2);
    find(".bar").style.setProperty("--part", `${Math.round(100 * part)}%`);
    near.observe(find("img"));
    return made;
  }

  function nameOf(uri) {
    return uri.slice(uri.lastIndexOf("/") + 1);
  }

  function sized(result, size) {
    return `${result.thumbnail.replace(/^\//, "")}&size=${size}`;
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        load(target, target.dataset.url);
      }
    },
    { rootMargin: "500px" },
  );

  async function load(image, url) {
    image.classList.remove("there");
    image.onload = () => image.classList.add("there");
    image.onerror = () => {
      const none = image.parentElement.querySelector(".none");
      if (none) none.hidden = false;
    };
    if (!sessionStorage.getItem(KEY)) {
      image.src = url;
      return;
    }
    // An <img> sends no key.
    image.dataset.wanted = url;
    try {
      const reply = await ask(url, { cache: "default" });
      const local = URL.createObjectURL(await reply.blob());
      image.addEventListener("load", () => URL.revokeObjectURL(local), { once: true });
      if (image.dataset.wanted === url) image.src = local;
    } catch {
      image.onerror();
    }
  }

  // ---- one picture, large

  function view(index) {
    const result = shown[index];
    if (!result) return;
    open = index;
    at("name").textContent = nameOf(result.uri);
    at("where").textContent = result.uri;
    const facts = { score: result.score.toFixed(3), type: result.content_type, ...result.metadata };
    at("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => fact(name, value)));
    at("large").alt = nameOf(result.uri);
    // What is in the grid stands in until the large one has come. Fetched with the key, it is gone by now.
    if (sessionStorage.getItem(KEY)) at("large").removeAttribute("src");
    else at("large").src = photo(index).querySelector("img").src;
    load(at("large"), sized(result, LARGE));
    at("previous").disabled = index === 0;
    at("next").disabled = index === shown.length - 1;
    at("copy").textContent = "Copy address";
    if (!at("viewer").open) at("viewer").showModal();
    at("like").focus();
  }

  function fact(name, value) {
    const row = document.createElement("div");
    row.append(document.createElement("dt"), document.createElement("dd"));
    row.firstChild.textContent = name;
    row.lastChild.textContent = value;
    return row;
  }

  function close() {
    if (at("viewer").open) at("viewer").close();
  }

  function like(index) {
    if (shown[index]) go(address("similar", { uri: shown[index].uri }));
  }

  at("viewer").addEventListener("close", () => {
    at("large").removeAttribute("src");
    focusOn(open);
    open = -1;
  });
  at("viewer").addEventListener("click", (event) => {
    if (event.target === at("viewer")) close();
  });
  let touched = 0;
  at("large").addEventListener("touchstart", (event) => (touched = event.touches[0].clientX), { passive: true });
  at("large").addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - touched;
    if (Math.abs(moved) > 40) view(open - Math.sign(moved));
  });
  at("close").onclick = close;
  at("previous").onclick = () => view(open - 1);
  at("next").onclick = () => view(open + 1);
  at("like").onclick = () => like(open);
  at("copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText(shown[open].uri);
      at("copy").textContent = "Copied";
    } catch {
      at("copy").textContent = "Select it above";
    }
  };

  // ---- a picture from outside

  async function search(file) {
    if (!file) return;
    say("Reading the picture …");
    try {
      go("search", { picture: await asUri(file) });
    } catch {
      say("");
      tell(at("problem"), "The picture could not be read.");
    }
  }

  async function asUri(file) {
    if (file.size > SMALL) {
      try {
        const bitmap = await createImageBitmap(file);
        const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
        const canvas = document.createElement("canvas");
        canvas.width = Math.max(1, Math.round(bitmap.width * scale));
        canvas.height = Math.max(1, Math.round(bitmap.height * scale));
        const brush = canvas.getContext("2d");
        brush.imageSmoothingQuality = "high";
        brush.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
        bitmap.close();
        return canvas.toDataURL("image/jpeg", 0.92);
      } catch {
        // Not a format of this browser (HEIC), or no picture at all: the server knows.
      }
    }
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      // The type is a claim; the server looks at the bytes. Without one the reader may write "data:base64".
      reader.onload = () => resolve(`data:image/*;base64,${reader.result.split(",")[1] ?? ""}`);
      reader.onerror = reject;
      reader.readAsDataURL(file);
    });
  }

  let leaving = 0;
  addEventListener("dragover", (event) => {
    const kinds = event.dataTransfer.types;
    if (!kinds.includes("Files") && !kinds.includes("text/uri-list")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    at("drop").hidden = false;
    clearTimeout(leaving);
    leaving = setTimeout(() => (at("drop").hidden = true), 250);
  });
  addEventListener("drop", (event) => {
    at("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    const url = event.dataTransfer.getData("text/uri-list").split("\n")[0].trim();
    if (!file && !url) return;
    event.preventDefault();
    // A picture dragged from another page comes as its address, which the server fetches.
    if (file) search(file);
    else go("search", { picture: url });
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    search(file);
  });
  at("choose").onclick = () => at("file").click();
  at("file").onchange = () => {
    search(at("file").files[0]);
    at("file").value = "";
  };
  at("picture").onclick = () => {
    go("./");
    at("query").focus();
  };

  // ---- typing, clicking, keys

  at("form").onsubmit = (event) => {
    event.preventDefault();
    const text = at("query").value.trim();
    if (!text) return;
    go(address("search", { q: text }));
    // A phone's keyboard covers the results.
    if (matchMedia("(hover: none)").matches) at("query").blur();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".chips a, a.home");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      go(link.getAttribute("href"));
    }
  });
  at("results").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const index = Number(button.dataset.index);
    if (button.classList.contains("like")) like(index);
    else view(index);
  });
  at("results").addEventListener("focusin", (event) => {
    if (!event.target.classList.contains("photo")) return;
    for (const other of at("results").querySelectorAll('.photo[tabindex="0"]')) other.tabIndex = -1;
    event.target.tabIndex = 0;
  });
  at("further").onclick = () => show({ k: MOST, keep: true });

  function photo(index) {
    return at("results").children[index]?.querySelector(".photo");
  }

  function focusOn(index) {
    const target = photo(index);
    target?.focus();
    target?.scrollIntoView({ block: "nearest" });
    return Boolean(target);
  }

  function columns() {
    const cards = [...at("results").children];
    const below = cards.findIndex((one) => one.offsetTop > cards[0].offsetTop);
    return below < 0 ? cards.length : below;
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at("ask").open) return;
    if (at("viewer").open) {
      if (event.key === "ArrowLeft") view(open - 1);
      else if (event.key === "ArrowRight") view(open + 1);
      else if (event.key === "m") like(open);
      return;
    }
    const typing = event.target === at("query");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      at("query").focus();
      at("query").select();
    } else if (event.key === "Escape" && typing) {
      if (at("query").value) at("query").value = "";
      else at("query").blur();
      event.preventDefault();
    } else if (event.key === "Escape") {
      at("query").focus();
    } else if (event.key === "ArrowDown" && typing) {
      if (focusOn(0)) event.preventDefault();
    } else if (event.target.classList?.contains("photo")) {
      inGrid(event);
    }
  });

  function inGrid(event) {
    const index = Number(event.target.dataset.index);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
    if (event.key === "m") like(index);
    else if (event.key === "Home") focusOn(0);
    else if (event.key === "End") focusOn(shown.length - 1);
    else if (!(event.key in steps)) return;
    else if (event.key === "ArrowUp" && index + steps.ArrowUp < 0) at("query").focus();
    else focusOn(Math.min(shown.length - 1, Math.max(0, index + steps[event.key])));
    event.preventDefault();
  }

  addEventListener("popstate", () => show());
  show();
  if (!wish() && matchMedia("(hover: hover)").matches) at("query").focus();
})();
