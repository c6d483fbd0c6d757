// openai: the client of the OpenAI API.
import OpenAI from "openai";
import { DATA_URIS, KEY, MODEL, URL, report } from "./report.mjs";

async function embed(input, { key, model } = { key: KEY, model: MODEL }) {
  const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: key });
  const reply = await client.embeddings.create({ model, input });
  return reply.data.map((item) => item.embedding);
}

await report("openai", embed, { pictures: await embed(DATA_URIS.map((image) => ({ image }))) });
