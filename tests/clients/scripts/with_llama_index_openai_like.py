"""llama-index-embeddings-openai-like: OpenAILikeEmbedding."""

from __future__ import annotations

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from report import DATA_URIS, KEY, MODEL, URL, report


def embed(texts, *, key=KEY, model=MODEL, **options):
    embedding = OpenAILikeEmbedding(model_name=model, api_base=f"{URL}/v1", api_key=key, **options)
    return embedding.get_text_embedding_batch(texts)


pictures = embed(DATA_URIS, additional_kwargs={"extra_body": {"modality": "image"}})
# The client splits long lists, and refuses a batch size above 2,048.
report("llama-index-embeddings-openai-like", embed, pictures, cases=("wrong_key", "wrong_model"))
