"""Cohere's protocol as its Python client speaks it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import requests

from clip_embeddings.engine.model import normalize_rows
from tests.support.pictures import data_uri, picture
from tests.support.serving import Server, error_code
from tests.support.vectors import assert_images, assert_texts, model, raw_images, raw_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")
TEXTS = ["a cat", "a cup of coffee"]
KEYS = {"id", "embeddings", "texts", "images", "meta", "response_type"}
TEXT_PART = {"type": "text", "text": "a cat"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": data_uri(CAT)}}


def _embed(server: Server, path: str = "/v2/embed", **body: Any) -> requests.Response:
    return server.post(path, json={"model": "demo", **body})


def _error(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"message"}
    return str(reply.json()["message"])


def test_texts(gateway: Server) -> None:
    reply = _embed(gateway, texts=TEXTS, input_type="search_document", embedding_types=["float"]).json()

    assert set(reply) == KEYS
    assert set(reply["embeddings"]) == {"float"}
    assert_texts(reply["embeddings"]["float"], *TEXTS)
    assert (reply["texts"], reply["response_type"]) == (TEXTS, "embeddings_by_type")
    tokens = sum(model().text.get().embed(TEXTS).token_counts)
    assert reply["meta"]["billed_units"]["input_tokens"] == tokens


def test_pictures(gateway: Server) -> None:
    reply = _embed(gateway, images=[data_uri(CAT), data_uri(COFFEE)], input_type="image").json()

    assert_images(reply["embeddings"]["float"], CAT, COFFEE)
    assert reply["meta"]["billed_units"]["images"] == 2


def test_inputs_of_texts_pictures_and_both(gateway: Server) -> None:
    contents = [[IMAGE_PART], [TEXT_PART], [TEXT_PART, IMAGE_PART]]

    reply = _embed(gateway, inputs=[{"content": content} for content in contents]).json()

    image, text, both = reply["embeddings"]["float"]
    assert_images([image], CAT)
    assert_texts([text], "a cat")
    units = np.concatenate([normalize_rows(raw_texts("a cat")), normalize_rows(raw_images(CAT))])
    (mean,) = normalize_rows(units.mean(axis=0, keepdims=True))
    assert np.abs(np.array(both) - mean).max() < 1e-4


def test_base64(gateway: Server) -> None:
    reply = _embed(gateway, texts=TEXTS, embedding_types=["base64", "float"]).json()["embeddings"]

    decoded = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in reply["base64"]]
    assert np.array_equal(np.array(decoded), np.array(reply["float"], np.float32))


def test_version_1_answers_plain_vectors(gateway: Server) -> None:
    reply = _embed(gateway, "/v1/embed", texts=TEXTS).json()

    assert set(reply) == KEYS
    assert reply["response_type"] == "embeddings_floats"
    assert_texts(reply["embeddings"], *TEXTS)


def test_version_1_with_types(gateway: Server) -> None:
    reply = _embed(gateway, "/v1/embed", texts=TEXTS, embedding_types=["float"]).json()

    assert reply["response_type"] == "embeddings_by_type"
    assert_texts(reply["embeddings"]["float"], *TEXTS)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"texts": TEXTS, "embedding_types": ["int8"]}, "encoding_unsupported"),
        ({"texts": TEXTS, "truncate": "START"}, "truncate_unsupported"),
        ({"texts": TEXTS, "output_dimension": 256}, "dimensions_unsupported"),
        ({"texts": ["a cat", "cat " * 300], "truncate": "NONE"}, "text_over_context"),
        ({}, "list_missing"),
        ({"texts": []}, "list_missing"),
        ({"texts": TEXTS, "images": [data_uri(CAT)]}, "list_ambiguous"),
        ({"inputs": [{"content": [TEXT_PART]}, {"content": []}]}, "content_invalid"),
        ({"inputs": [{"content": [TEXT_PART]}, 5]}, "content_invalid"),
        ({"texts": ["a cat", None]}, "text_not_a_string"),
    ],
)
def test_what_is_not_served_is_refused(gateway: Server, body: dict[str, Any], code: str) -> None:
    reply = _embed(gateway, **body)

    assert _error(reply, 400)
    assert error_code(reply) == code


def test_a_bad_item_is_named_by_its_index(gateway: Server) -> None:
    inputs = [{"content": [TEXT_PART]}, {"content": [{"type": "image_url", "image_url": {"url": "QUJD"}}]}]

    assert _error(_embed(gateway, inputs=inputs), 422).startswith("Item 1: ")


def test_as_many_items_as_any_protocol_allows(gateway: Server) -> None:
    assert len(_embed(gateway, texts=["a cat"] * 256).json()["embeddings"]["float"]) == 256
    _error(_embed(gateway, texts=["a cat"] * 257), 413)


def test_long_texts_are_cut_at_their_end(gateway: Server) -> None:
    variants: list[dict[str, Any]] = [{}, {"truncate": "END"}, {"truncate": "NONE", "texts": ["a cat"]}]
    for options in variants:
        assert _embed(gateway, **{"texts": ["cat " * 300], **options}).status_code == 200


def test_an_unknown_model(gateway: Server) -> None:
    assert "embed-v4.0" in _error(_embed(gateway, model="embed-v4.0", texts=TEXTS), 404)
