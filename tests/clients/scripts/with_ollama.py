"""ollama: its client sends any header, and the key in OLLAMA_API_KEY."""

from __future__ import annotations

import ollama
from report import KEY, MODEL, URL, report


def embed(texts, *, key=KEY, model=MODEL):
    client = ollama.Client(host=URL, headers={"Authorization": f"Bearer {key}"})
    return client.embed(model=model, input=texts).embeddings


report("ollama", embed)
