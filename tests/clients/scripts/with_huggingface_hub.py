"""huggingface_hub: InferenceClient, against the API of Text Embeddings Inference."""

from __future__ import annotations

from huggingface_hub import InferenceClient
from report import KEY, URL, report


def embed(texts, *, key=KEY):
    return InferenceClient(f"{URL}/embed", token=key).feature_extraction(texts)


report("huggingface_hub", embed, cases=("wrong_key", "too_many"))
