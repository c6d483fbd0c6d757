// ai with @ai-sdk/openai-compatible: the AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import { URL, report } from "./report.mjs";

async function embed(values, { key, model }) {
  const provider = createOpenAICompatible({ name: "clip", baseURL: `${URL}/v1`, apiKey: key });
  return (await embedMany({ model: provider.embeddingModel(model), values })).embeddings;
}

// The client splits long lists.
await report("ai", embed, { cases: ["wrong_key", "wrong_model"] });
