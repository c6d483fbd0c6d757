"""lancedb: the OpenAI function of its registry, which knows only the names of OpenAI's own models."""

from __future__ import annotations

import tempfile

import lancedb
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
from openai import OpenAI
from report import KEY, TEXTS, URL, report

NAME = "text-embedding-3-small"
DIMENSIONS = len(
    OpenAI(base_url=f"{URL}/v1", api_key=KEY).embeddings.create(model=NAME, input="a").data[0].embedding
)


def function(key=KEY):
    get_registry().set_var("key", key)
    return (
        get_registry()
        .get("openai")
        .create(name=NAME, dim=DIMENSIONS, base_url=f"{URL}/v1", api_key="$var:key", max_retries=0)
    )


def embed(texts, *, key=KEY):
    return function(key).compute_source_embeddings(texts)


openai = function()


class Row(LanceModel):
    text: str = openai.SourceField()
    vector: Vector(openai.ndims()) = openai.VectorField()


with tempfile.TemporaryDirectory() as folder:
    table = lancedb.connect(folder).create_table("texts", schema=Row)
    table.add([{"text": text} for text in TEXTS])
    for text in TEXTS:
        assert table.search(text).limit(1).to_list()[0]["text"] == text
    vectors = {row["text"]: row["vector"] for row in table.to_arrow().to_pylist()}
assert max(abs(a - b) for a, b in zip(vectors[TEXTS[0]], embed(TEXTS)[0], strict=True)) < 1e-5
report("lancedb", embed, cases=("wrong_key",))
