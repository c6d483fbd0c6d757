"""openai: the client of the OpenAI API."""

from __future__ import annotations

from openai import OpenAI
from report import DATA_URIS, KEY, MODEL, URL, report


def embed(texts, *, key=KEY, model=MODEL):
    client = OpenAI(base_url=f"{URL}/v1", api_key=key)
    return [item.embedding for item in client.embeddings.create(model=model, input=texts).data]


served = OpenAI(base_url=f"{URL}/v1", api_key=KEY).models.list()
assert MODEL in [model.id for model in served]
report("openai", embed, embed([{"image": uri} for uri in DATA_URIS]))
