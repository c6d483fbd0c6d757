// cohere-ai: CohereClientV2.
import { CohereClientV2 } from "cohere-ai";
import { DATA_URIS, KEY, MODEL, URL, report } from "./report.mjs";

async function call(items, { key, model } = { key: KEY, model: MODEL }) {
  const client = new CohereClientV2({ token: key, environment: URL });
  const reply = await client.embed({ model, embeddingTypes: ["float"], ...items });
  return reply.embeddings.float;
}

const embed = (texts, options) => call({ texts, inputType: "search_document" }, options);
const pictures = [];
for (const uri of DATA_URIS) {
  pictures.push((await call({ images: [uri], inputType: "image" }))[0]);
}
await report("cohere-ai", embed, { pictures });
