// ollama: its client sends any header, and a key of its own to ollama.com only.
import { Ollama } from "ollama";
import { URL, report } from "./report.mjs";

async function embed(input, { key, model }) {
  const client = new Ollama({ host: URL, headers: { Authorization: `Bearer ${key}` } });
  return (await client.embed({ model, input })).embeddings;
}

await report("ollama", embed);
