"""llama-index-embeddings-text-embeddings-inference, which never looks at a status."""

from __future__ import annotations

from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from report import KEY, URL, report


def embed(texts):
    embedding = TextEmbeddingsInference(model_name="any", base_url=URL, auth_token=KEY)
    return embedding.get_text_embedding_batch(texts)


report("llama-index-embeddings-text-embeddings-inference", embed, cases=())
