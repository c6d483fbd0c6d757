"use strict";
// Fetches the document, with the API key if the server wants one, and shows it with Swagger UI.
(() => {
  // The search page keeps the key under the same name.
  const KEY = "api-key";
  const at = (id) => document.getElementById(id);

  function askForKey(again) {
    if (again) at("ask-words").textContent = "That was not the key.";
    at("key").value = "";
    at("ask").showModal();
    return new Promise((resolve) => {
      at("ask").onclose = () => resolve(at("key").value);
    });
  }

  async function fetchDocument() {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = { Accept: "application/json", ...(key ? { "X-API-Key": key } : {}) };
      const reply = await fetch("openapi.json", { headers, cache: "no-store" });
      if (reply.ok) return reply.json();
      if (reply.status !== 401) throw new Error(`the server answers with status ${reply.status}`);
      const given = await askForKey(key !== null);
      if (!given) throw new Error("the server wants its API key; reload to enter it");
      sessionStorage.setItem(KEY, given);
    }
  }

  function show(spec) {
    // The paths of the document are relative to where this page is, perhaps below a prefix of a proxy.
    spec.servers = [{ url: new URL(".", location.href).pathname.replace(/\/$/, "") || "/" }];
    const ui = SwaggerUIBundle({
      spec,
      dom_id: "#docs",
      deepLinking: true,
      displayRequestDuration: true,
      docExpansion: "list",
      filter: true,
      tryItOutEnabled: true,
      defaultModelsExpandDepth: 0,
      // No badge of a validator on another site.
      validatorUrl: null,
      onComplete: () => {
        const key = sessionStorage.getItem(KEY);
        if (key && spec.components.securitySchemes?.key) ui.preauthorizeApiKey("key", key);
      },
    });
  }

  fetchDocument().then(show, (error) => {
    at("docs").querySelector(".say").textContent = `The document could not be loaded: ${error.message}.`;
  });
})();
