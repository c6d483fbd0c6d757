"""litellm: its provider for servers with the OpenAI API."""

from __future__ import annotations

import litellm
from report import DATA_URIS, KEY, MODEL, URL, report


def embed(texts, *, key=KEY, model=MODEL, **options):
    reply = litellm.embedding(
        model=f"openai/{model}", input=texts, api_base=f"{URL}/v1", api_key=key, **options
    )
    return [item["embedding"] for item in reply.data]


report("litellm", embed, embed(DATA_URIS, extra_body={"modality": "image"}))
