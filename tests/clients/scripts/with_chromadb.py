"""chromadb: HuggingFaceEmbeddingServer, which never looks at a status, fills a collection in this process."""

from __future__ import annotations

import os

import chromadb
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer
from report import KEY, TEXTS, URL, report

os.environ["CLIP_KEY"] = KEY
function = HuggingFaceEmbeddingServer(f"{URL}/embed", api_key_env_var="CLIP_KEY")


def embed(texts):
    return function(texts)


collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=function)
collection.add(ids=TEXTS, documents=TEXTS)
for text in TEXTS:
    assert collection.query(query_texts=[text], n_results=1)["ids"] == [[text]]
report("chromadb", embed, cases=())
