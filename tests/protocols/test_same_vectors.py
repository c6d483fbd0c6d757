"""Every protocol gives an item the vector that the native routes give it.

A protocol takes part with a row per kind of item in TEXT_ADAPTERS and IMAGE_ADAPTERS.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_embeddings.protocols.registry import PROTOCOLS
from tests.support.pictures import FORMATS, data_uri, in_base64, picture
from tests.support.serving import Server


@dataclass(frozen=True)
class Adapter:
    """How one item is sent, and where its vector is in the reply."""

    protocol: str
    path: str
    # The text or the bytes of a picture, to arguments of requests.post.
    arguments: Callable[[Any], dict[str, Any]]
    # The reply as JSON, to the vector: numbers, or base64 of little-endian float32.
    vector: Callable[[Any], Sequence[float] | str]
    # Tells the rows of a protocol apart.
    dialect: str = ""

    @property
    def name(self) -> str:
        """For the test's name."""
        return " ".join(filter(None, (self.protocol, self.path, self.dialect)))


def _json(make: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda item: {"json": make(item)}


def _openai_vector(reply: Any) -> Any:
    return reply["data"][0]["embedding"]


def _float_vector(reply: Any) -> Any:
    return reply["embeddings"]["float"][0]


def _messages(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def _image_part(item: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(item)}}


def _entries(kind: str) -> str:
    return json.dumps({"clip": {kind: {"modelName": "demo"}}})


def _content(part: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": [part]}}


def _values(reply: Any) -> Any:
    return reply["embedding"]["values"]


VERTEX = "/v1/projects/p/locations/us-central1/publishers/google/models/demo"
GEMINI = "/v1beta/models/demo"

TEXT_ADAPTERS = (
    Adapter("native", "/embed/mixed", _json(lambda t: {"texts": [t]}), lambda r: r["text_embeddings"][0]),
    Adapter("notebook", "/embed/text", lambda t: {"data": {"text": t}}, lambda r: r["embedding"]),
    Adapter("photo-app", "/search", _json(lambda t: {"prompt": t}), lambda r: r["embedding"]),
    Adapter("encoder", "/encode_text", _json(lambda t: {"text": t}), lambda r: r["embedding"]),
    Adapter("openai", "/v1/embeddings", _json(lambda t: {"input": t}), _openai_vector),
    Adapter(
        "openai",
        "/v1/embeddings",
        _json(lambda t: {"input": [t], "encoding_format": "base64"}),
        _openai_vector,
        dialect="base64",
    ),
    Adapter(
        "openai", "/v1/embeddings", _json(lambda t: {"input": [{"text": t}]}), _openai_vector, dialect="jina"
    ),
    Adapter(
        "openai",
        "/v1/embeddings",
        _json(lambda t: _messages({"type": "text", "text": t})),
        _openai_vector,
        dialect="vllm",
    ),
    Adapter("ollama", "/api/embed", _json(lambda t: {"input": t}), lambda r: r["embeddings"][0]),
    Adapter("ollama", "/api/embeddings", _json(lambda t: {"prompt": t}), lambda r: r["embedding"]),
    Adapter("cohere", "/v2/embed", _json(lambda t: {"texts": [t]}), _float_vector),
    Adapter(
        "cohere",
        "/v2/embed",
        _json(lambda t: {"texts": [t], "embedding_types": ["base64"]}),
        lambda r: r["embeddings"]["base64"][0],
        dialect="base64",
    ),
    Adapter("cohere", "/v1/embed", _json(lambda t: {"texts": [t]}), lambda r: r["embeddings"][0]),
    Adapter("tei", "/embed", _json(lambda t: {"inputs": t}), lambda r: r[0]),
    Adapter("weaviate", "/vectorize", _json(lambda t: {"texts": [t]}), lambda r: r["textVectors"][0]),
    Adapter(
        "immich",
        "/predict",
        lambda t: {"files": {"entries": (None, _entries("textual")), "text": (None, t)}},
        lambda r: orjson.loads(r["clip"]),
    ),
    Adapter(
        "vertex",
        f"{VERTEX}:predict",
        _json(lambda t: {"instances": [{"text": t}]}),
        lambda r: r["predictions"][0]["textEmbedding"],
    ),
    Adapter(
        "vertex",
        f"{VERTEX}:predict",
        _json(lambda t: {"instances": [{"content": t}]}),
        lambda r: r["predictions"][0]["embeddings"]["values"],
        dialect="text model",
    ),
    Adapter("gemini", f"{GEMINI}:embedContent", _json(lambda t: _content({"text": t})), _values),
    Adapter("bigquery", "/bigquery", _json(lambda t: {"calls": [[t]]}), lambda r: r["replies"][0]),
)
IMAGE_ADAPTERS = (
    Adapter(
        "native",
        "/embed/mixed",
        _json(lambda i: {"images": [in_base64(i)]}),
        lambda r: r["image_embeddings"][0],
    ),
    Adapter("notebook", "/embed/image", lambda i: {"files": {"image": i}}, lambda r: r["embedding"]),
    Adapter("photo-app", "/upload", lambda i: {"data": {"imageUrl": data_uri(i)}}, lambda r: r["embedding"]),
    Adapter(
        "encoder", "/encode_image", _json(lambda i: {"image_b64": in_base64(i)}), lambda r: r["embedding"]
    ),
    Adapter(
        "openai",
        "/v1/embeddings",
        _json(lambda i: {"input": [{"image": in_base64(i)}]}),
        _openai_vector,
        dialect="jina",
    ),
    Adapter(
        "openai",
        "/v1/embeddings",
        _json(lambda i: {"input": data_uri(i), "modality": "image"}),
        _openai_vector,
        dialect="infinity",
    ),
    Adapter(
        "openai", "/v1/embeddings", _json(lambda i: _messages(_image_part(i))), _openai_vector, dialect="vllm"
    ),
    Adapter("cohere", "/v2/embed", _json(lambda i: {"images": [data_uri(i)]}), _float_vector),
    Adapter(
        "cohere",
        "/v2/embed",
        _json(lambda i: {"inputs": [{"content": [_image_part(i)]}]}),
        _float_vector,
        dialect="inputs",
    ),
    Adapter(
        "weaviate", "/vectorize", _json(lambda i: {"images": [in_base64(i)]}), lambda r: r["imageVectors"][0]
    ),
    Adapter(
        "immich",
        "/predict",
        lambda i: {"data": {"entries": _entries("visual")}, "files": {"image": i}},
        lambda r: orjson.loads(r["clip"]),
    ),
    Adapter(
        "vertex",
        f"{VERTEX}:predict",
        _json(lambda i: {"instances": [{"image": {"bytesBase64Encoded": in_base64(i)}}]}),
        lambda r: r["predictions"][0]["imageEmbedding"],
    ),
    Adapter(
        "gemini",
        f"{GEMINI}:embedContent",
        _json(lambda i: _content({"inlineData": {"mimeType": "image/png", "data": in_base64(i)}})),
        _values,
    ),
    Adapter(
        "bigquery",
        "/bigquery",
        _json(lambda i: {"userDefinedContext": {"mode": "image"}, "calls": [[data_uri(i)]]}),
        lambda r: r["replies"][0],
    ),
)

# OpenAI's API has no empty text. A form cannot carry a surrogate, nor JSON.
texts = st.one_of(
    st.sampled_from(["a cat", "Fire & ice &amp; <b>", "ein Kätzchen", "猫 🐈", "cat " * 200, " ", "a\nb\tc"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120),
)
pictures = st.builds(
    picture,
    st.sampled_from(["chelsea", "coffee"]),
    st.sampled_from(FORMATS),
    st.sampled_from([(160, 120), (31, 47)]),
)
# The fixture's server keeps nothing of one example for the next.
examples = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _array(vector: Sequence[float] | str) -> np.ndarray:
    if isinstance(vector, str):
        return np.frombuffer(base64.b64decode(vector), "<f4")
    return np.array(vector, np.float32)


@cache
def _native(server: Server, path: str, field: str, item: str) -> np.ndarray:
    return _array(server.post(path, json={field: [item]}).json()["embeddings"][0])


def _assert_same(server: Server, adapter: Adapter, item: str | bytes, expected: np.ndarray) -> None:
    reply = server.post(adapter.path, **adapter.arguments(item))
    assert reply.status_code == 200, reply.text
    assert np.array_equal(_array(adapter.vector(reply.json())), expected)


@pytest.mark.parametrize("adapter", TEXT_ADAPTERS, ids=lambda adapter: adapter.name)
@examples
@given(text=texts)
def test_a_text_has_the_native_vector(gateway: Server, adapter: Adapter, text: str) -> None:
    _assert_same(gateway, adapter, text, _native(gateway, "/embed/text", "texts", text))


@pytest.mark.parametrize("adapter", IMAGE_ADAPTERS, ids=lambda adapter: adapter.name)
@examples
@given(image=pictures)
def test_a_picture_has_the_native_vector(gateway: Server, adapter: Adapter, image: bytes) -> None:
    _assert_same(gateway, adapter, image, _native(gateway, "/embed/image", "images", in_base64(image)))


def test_every_protocol_takes_part() -> None:
    with_vectors = set(PROTOCOLS) - {"classify", "huggingface"}
    assert {adapter.protocol for adapter in (*TEXT_ADAPTERS, *IMAGE_ADAPTERS)} == with_vectors
