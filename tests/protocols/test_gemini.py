"""The Gemini API: the bodies that google-genai sends, and those of Google's own examples for curl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from tests.support.pictures import in_base64, picture
from tests.support.serving import KEY, Server, error_code, serving
from tests.support.vectors import assert_images, assert_texts, model, raw_images, raw_texts

CAT = picture("chelsea")
PATH = "/v1beta/models/demo"
# google-genai with vertexai=True.
VERTEX = "projects/my-project/locations/us-central1/publishers/google/models/demo"
DIMENSIONS = model().manifest.dimensions


def _text(text: str) -> dict[str, Any]:
    return {"parts": [{"text": text}], "role": "user"}


def _picture(data: bytes) -> dict[str, Any]:
    return {"parts": [{"inlineData": {"mimeType": "image/jpeg", "data": in_base64(data)}}]}


@pytest.mark.parametrize("path", [PATH, PATH.replace("v1beta", "v1")])
def test_a_batch_gets_a_vector_per_content(gateway: Server, path: str) -> None:
    # google-genai, Models.embed_content, with every option that it sends to this API.
    options = {"taskType": "RETRIEVAL_QUERY", "title": "Cats", "outputDimensionality": DIMENSIONS}
    contents = [_text("a cat"), _picture(CAT), _text("coffee")]
    requests = [{"content": content, "model": "models/demo", **options} for content in contents]

    reply = gateway.post(f"{path}:batchEmbedContents", json={"requests": requests})

    assert reply.headers["Embedding-Model"] == "demo"
    assert set(reply.json()) == {"embeddings"}
    first, second, third = (embedding["values"] for embedding in reply.json()["embeddings"])
    assert_texts([first, third], "a cat", "coffee")
    assert_images([second], CAT)


@pytest.mark.parametrize("path", [PATH, f"/v1/{VERTEX}", f"/v1beta1/{VERTEX}"])
def test_one_content_gets_one_vector(gateway: Server, path: str) -> None:
    reply = gateway.post(f"{path}:embedContent", json={"model": path, "content": _text("a cat")})

    assert set(reply.json()) == {"embedding"}
    assert set(reply.json()["embedding"]) == {"values"}
    assert_texts([reply.json()["embedding"]["values"]], "a cat")


def test_fields_may_be_spelled_with_underscores(gateway: Server) -> None:
    # https://ai.google.dev/gemini-api/docs/embeddings, the examples for curl.
    body = {
        "content": {"parts": [{"inline_data": {"mime_type": "image/png", "data": in_base64(CAT)}}]},
        "output_dimensionality": DIMENSIONS,
        "embed_content_config": {"task_type": "CLUSTERING", "output_dimensionality": DIMENSIONS},
    }

    reply = gateway.post(f"{PATH}:embedContent", json=body).json()

    assert_images([reply["embedding"]["values"]], CAT)


def test_parts_of_one_content_share_a_vector(gateway: Server) -> None:
    content = {"parts": [*_text("a cat")["parts"], *_picture(CAT)["parts"]]}

    values = gateway.post(f"{PATH}:embedContent", json={"content": content}).json()["embedding"]["values"]

    parts = np.concatenate([normalize_rows(raw_texts("a cat")), normalize_rows(raw_images(CAT))])
    expected = normalize_rows(parts.mean(axis=0, keepdims=True))[0]
    assert np.abs(np.array(values) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("part", "status", "code"),
    [
        ({}, 400, "part_invalid"),
        ({"text": "a", "inlineData": {"data": in_base64(CAT)}}, 400, "part_invalid"),
        ({"functionCall": {"name": "f"}}, 400, "part_invalid"),
        (
            {"inlineData": {"mimeType": "image/png", "data": "http://127.0.0.1/"}},
            400,
            "image_reference_invalid",
        ),
        ({"inlineData": {"mimeType": "audio/mp3", "data": in_base64(b"sound")}}, 422, "image_unsupported"),
        ({"fileData": {"fileUri": "gs://somebody-elses/cat.jpg"}}, 400, "bucket_forbidden"),
        ({"file_data": {"file_uri": "files/abc"}}, 400, "url_invalid"),
    ],
)
def test_a_part_that_cannot_be_embedded_is_a_google_error(
    gateway: Server, part: Any, status: int, code: str
) -> None:
    requests = [{"content": _text("a cat")}, {"content": {"parts": [{"text": "b"}, part]}}]

    reply = gateway.post(f"{PATH}:batchEmbedContents", json={"requests": requests})

    assert (reply.status_code, error_code(reply)) == (status, code)
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "status"}
    assert error["message"].startswith("Item 1: ")
    assert error["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"outputDimensionality": 12}, "dimensions_unsupported"),
        ({"embedContentConfig": {"outputDimensionality": 12}}, "dimensions_unsupported"),
        ({"model": "models/other"}, "model_ambiguous"),
    ],
)
def test_what_cannot_be_honored_is_refused(gateway: Server, request_: dict[str, Any], code: str) -> None:
    reply = gateway.post(f"{PATH}:embedContent", json={"content": _text("a"), **request_})

    assert (reply.status_code, error_code(reply)) == (400, code)


def test_a_text_that_must_not_be_cut_is_refused(gateway: Server) -> None:
    body = {"content": _text("cat " * 500), "embedContentConfig": {"autoTruncate": False}}

    reply = gateway.post(f"{PATH}:embedContent", json=body)

    assert (reply.status_code, error_code(reply)) == (400, "text_over_context")


def test_that_one_text_must_not_be_cut_counts_for_the_whole_batch(gateway: Server) -> None:
    requests = [{"content": _text("cat " * 500)}, {"content": _text("a"), "autoTruncate": False}]

    reply = gateway.post(f"{PATH}:batchEmbedContents", json={"requests": requests})

    assert (reply.status_code, error_code(reply)) == (400, "text_over_context")
    assert reply.json()["error"]["message"].startswith("Item 0: ")


def test_with_a_picture_all_items_have_the_limit_of_all_protocols(log: Path) -> None:
    contents = [_picture(CAT), _text("a cat"), _text("coffee")]
    with serving("embed_mixed", log, MAX_ITEMS="2") as server:
        served, refused = (
            server.post(
                f"{PATH}:batchEmbedContents", json={"requests": [{"content": content} for content in some]}
            )
            for some in (contents[:2], contents)
        )

    assert served.status_code == 200
    assert (refused.status_code, error_code(refused)) == (413, "too_many_items")


def test_a_batch_has_one_number_of_dimensions(gateway: Server) -> None:
    sizes = (DIMENSIONS, 12)
    requests = [{"content": _text("a"), "outputDimensionality": size} for size in sizes]

    reply = gateway.post(f"{PATH}:batchEmbedContents", json={"requests": requests})

    assert (reply.status_code, error_code(reply)) == (400, "dimensions_invalid")


def test_an_unknown_model_is_not_found(gateway: Server) -> None:
    reply = gateway.post("/v1beta/models/gemini-embedding-001:embedContent", json={"content": _text("a")})

    assert reply.json()["error"] | {"message": ""} == {"code": 404, "message": "", "status": "NOT_FOUND"}


def test_the_key_comes_in_googles_header_and_names_may_be_aliases(log: Path) -> None:
    path = "/v1beta/models/gemini-embedding-001:embedContent"
    with serving("embed_text", log, API_KEY=KEY, MODEL_ALIASES="gemini-embedding-001=demo") as server:
        refused = server.post(path, json={"content": _text("a cat")})
        served = server.post(path, json={"content": _text("a cat")}, headers={"x-goog-api-key": KEY})

    assert (refused.status_code, refused.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert_texts([served.json()["embedding"]["values"]], "a cat")
