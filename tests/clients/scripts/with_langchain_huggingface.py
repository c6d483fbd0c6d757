"""langchain-huggingface: HuggingFaceEndpointEmbeddings.

Its constructor refuses URLs and makes a client of the Hugging Face Hub, which its `client` then replaces.
"""

from __future__ import annotations

from huggingface_hub import InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from report import KEY, URL, report


def embed(texts, *, key=KEY):
    embeddings = HuggingFaceEndpointEmbeddings()
    embeddings.client = InferenceClient(f"{URL}/embed", token=key)
    return embeddings.embed_documents(texts)


report("langchain-huggingface", embed, cases=("wrong_key", "too_many"))
