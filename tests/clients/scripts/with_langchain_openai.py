"""langchain-openai: OpenAIEmbeddings, with texts instead of the token ids of OpenAI's own models."""

from __future__ import annotations

from langchain_openai import OpenAIEmbeddings
from report import DATA_URIS, KEY, MANY, MODEL, URL, report


def embeddings(key=KEY, model=MODEL):
    return OpenAIEmbeddings(
        model=model, base_url=f"{URL}/v1", api_key=key, check_embedding_ctx_length=False, chunk_size=MANY
    )


def embed(texts, *, key=KEY, model=MODEL):
    return embeddings(key, model).embed_documents(texts)


report("langchain-openai", embed, embeddings().embed_documents(DATA_URIS, extra_body={"modality": "image"}))
