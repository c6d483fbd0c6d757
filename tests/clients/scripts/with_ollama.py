"""ollama: its client sends no key of its own, but any header."""

from __future__ import annotations

import ollama
from report import KEY, MODEL, URL, report


def embed(texts, *, key=KEY, model=MODEL):
    client = ollama.Client(host=URL, headers={"Authorization": f"Bearer {key}"})
    return client.embed(model=model, input=texts).embeddings


report("ollama", embed)
