// Requests to the server, with the API key if it wants one.

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
    const code = reply.headers.get("Embedding-Error-Code");
    throw Object.assign(new Error(await words(reply)), { code });
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

