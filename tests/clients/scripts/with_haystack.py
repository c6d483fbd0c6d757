"""haystack-ai with huggingface-api-haystack: its embedders for Text Embeddings Inference.

They ask for vectors that are not normalized unless told otherwise.
"""

from __future__ import annotations

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from report import KEY, MANY, TEXTS, URL, report

SERVER = {"api_type": "text_embeddings_inference", "api_params": {"url": f"{URL}/embed"}, "normalize": True}


def embed(texts, *, key=KEY):
    token = Secret.from_token(key)
    if texts == TEXTS:
        embedder = HuggingFaceAPITextEmbedder(token=token, **SERVER)
        return [embedder.run(text)["embedding"] for text in texts]
    embedder = HuggingFaceAPIDocumentEmbedder(token=token, batch_size=MANY, progress_bar=False, **SERVER)
    return [document.embedding for document in embedder.run([Document(text) for text in texts])["documents"]]


report("huggingface-api-haystack", embed, cases=("wrong_key", "too_many"))
