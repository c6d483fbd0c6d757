// ollama: its client sends no key of its own, but any header.
import { Ollama } from "ollama";
import { URL, report } from "./report.mjs";

async function embed(input, { key, model }) {
  const client = new Ollama({ host: URL, headers: { Authorization: `Bearer ${key}` } });
  return (await client.embed({ model, input })).embeddings;
}

await report("ollama", embed);
