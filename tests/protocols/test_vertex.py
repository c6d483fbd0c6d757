"""Vertex AI's predict method: the bodies that google-cloud-aiplatform sends, at every path it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pictures import in_base64, picture
from tests.support.serving import KEY, Server, error_code, serving
from tests.support.vectors import assert_images, assert_texts, model

CAT, COFFEE = picture("chelsea"), picture("coffee", "PNG")
PARENT = "projects/my-project/locations/us-central1"
MODEL = f"/v1/{PARENT}/publishers/google/models/demo:predict"
ENDPOINT = f"/v1/{PARENT}/endpoints/1234567890:predict"
DIMENSIONS = model().manifest.dimensions


def _image(data: bytes) -> dict[str, Any]:
    return {"bytesBase64Encoded": in_base64(data), "mimeType": "image/jpeg"}


@pytest.mark.parametrize("path", [MODEL, ENDPOINT, MODEL.replace("v1", "v1beta1", 1)])
def test_a_text_and_a_picture_of_one_instance_get_a_vector_each(gateway: Server, path: str) -> None:
    # vertexai.vision_models.MultiModalEmbeddingModel.get_embeddings; a Struct holds doubles only.
    body = {
        "instances": [{"image": _image(CAT), "text": "a cat"}],
        "parameters": {"dimension": float(DIMENSIONS)},
    }

    reply = gateway.post(path, json=body)

    assert reply.headers["Embedding-Model"] == "demo"
    assert set(reply.json()) == {"predictions", "deployedModelId"}
    (prediction,) = reply.json()["predictions"]
    assert set(prediction) == {"textEmbedding", "imageEmbedding"}
    assert_texts([prediction["textEmbedding"]], "a cat")
    assert_images([prediction["imageEmbedding"]], CAT)


def test_vectors_stay_with_their_instances(gateway: Server) -> None:
    instances = [
        {"image": _image(CAT)},
        {"text": "a cat"},
        {"text": "coffee", "image": _image(COFFEE)},
    ]

    predictions = gateway.post(MODEL, json={"instances": instances}).json()["predictions"]

    assert [set(prediction) for prediction in predictions] == [
        {"imageEmbedding"},
        {"textEmbedding"},
        {"textEmbedding", "imageEmbedding"},
    ]
    assert_images([predictions[0]["imageEmbedding"], predictions[2]["imageEmbedding"]], CAT, COFFEE)
    assert_texts([predictions[1]["textEmbedding"], predictions[2]["textEmbedding"]], "a cat", "coffee")


def test_text_models_get_statistics(gateway: Server) -> None:
    # vertexai.language_models.TextEmbeddingModel.get_embeddings.
    long = "cat " * 500
    body = {
        "instances": [
            {"content": "a cat", "task_type": "RETRIEVAL_DOCUMENT", "title": "Cats"},
            {"content": long},
        ],
        "parameters": {"autoTruncate": True, "outputDimensionality": DIMENSIONS},
    }

    reply = gateway.post(MODEL, json=body).json()

    first, second = (prediction["embeddings"] for prediction in reply["predictions"])
    assert_texts([first["values"], second["values"]], "a cat", long)
    counts = model().text.get().embed(["a cat", long]).token_counts
    assert first["statistics"] == {"token_count": counts[0], "truncated": False}
    assert second["statistics"] == {"token_count": counts[1], "truncated": True}


def test_a_text_that_must_not_be_cut_is_refused(gateway: Server) -> None:
    body = {
        "instances": [{"content": "a cat"}, {"content": "cat " * 500}],
        "parameters": {"autoTruncate": False},
    }

    reply = gateway.post(MODEL, json=body)

    assert (reply.status_code, error_code(reply)) == (400, "text_over_context")
    assert reply.json()["error"]["message"].startswith("Item 1: ")


@pytest.mark.parametrize("count", [250, 251])
def test_it_takes_as_many_texts_as_vertex_ai(log: Path, count: int) -> None:
    with serving("embed_text", log, MAX_ITEMS="2") as server:
        reply = server.post(ENDPOINT, json={"instances": [{"content": "a"}] * count})

    assert reply.status_code == (200 if count == 250 else 413)


def test_with_a_picture_all_items_have_the_limit_of_all_protocols(log: Path) -> None:
    instances = [{"text": "a cat", "image": _image(CAT)}, {"text": "coffee"}]
    with serving("embed_mixed", log, MAX_ITEMS="2") as server:
        served = server.post(ENDPOINT, json={"instances": instances[:1]})
        refused = server.post(ENDPOINT, json={"instances": instances})

    assert served.status_code == 200
    assert (refused.status_code, error_code(refused)) == (413, "too_many_items")


@pytest.mark.parametrize(
    ("instances", "status", "code"),
    [
        ([], 400, "body_invalid"),
        ([{}], 400, "instance_empty"),
        ([{"text": "a", "content": "a"}], 400, "instance_ambiguous"),
        ([{"text": "a", "video": {"gcsUri": "gs://a/b"}}], 400, "media_unsupported"),
        ([{"image": {}}], 400, "image_missing"),
        ([{"image": {"bytesBase64Encoded": "http://127.0.0.1/"}}], 400, "image_reference_invalid"),
        ([{"image": {"bytesBase64Encoded": in_base64(b"no picture")}}], 422, "image_unsupported"),
        ([{"image": {"gcsUri": "https://example.com/cat.jpg"}}], 400, "url_invalid"),
        ([{"image": {"gcsUri": "gs://somebody-elses/cat.jpg"}}], 400, "bucket_forbidden"),
    ],
)
def test_errors_are_googles(gateway: Server, instances: Any, status: int, code: str) -> None:
    reply = gateway.post(ENDPOINT, json={"instances": instances})

    assert (reply.status_code, error_code(reply)) == (status, code)
    error = reply.json()["error"]
    assert set(reply.json()) == {"error"}
    assert set(error) == {"code", "message", "status"}
    assert error["code"] == status
    assert error["status"] == "INVALID_ARGUMENT"


def test_an_instance_that_fails_is_named(gateway: Server) -> None:
    instances = [{"text": "a cat"}, {"image": _image(CAT)}, {"image": _image(b"no picture")}]

    reply = gateway.post(ENDPOINT, json={"instances": instances})

    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith("Item 2: ")


@pytest.mark.parametrize("parameters", [{"dimension": DIMENSIONS - 1}, {"outputDimensionality": 3}])
def test_other_dimensions_are_refused(gateway: Server, parameters: dict[str, Any]) -> None:
    reply = gateway.post(ENDPOINT, json={"instances": [{"text": "a"}], "parameters": parameters})

    assert (reply.status_code, error_code(reply)) == (400, "dimensions_unsupported")


def test_a_fraction_is_no_number_of_dimensions(gateway: Server) -> None:
    reply = gateway.post(ENDPOINT, json={"instances": [{"text": "a"}], "parameters": {"dimension": 1.5}})

    assert (reply.status_code, error_code(reply)) == (400, "dimensions_invalid")


def test_google_s_own_model_names_need_an_alias(gateway: Server, log: Path) -> None:
    path = MODEL.replace("demo", "multimodalembedding@001")
    body = {"instances": [{"text": "a cat"}]}

    refused = gateway.post(path, json=body)
    with serving("embed_text", log, MODEL_ALIASES="multimodalembedding@001=demo") as server:
        served = server.post(path, json=body)

    assert refused.json()["error"]["status"] == "NOT_FOUND"
    assert_texts([served.json()["predictions"][0]["textEmbedding"]], "a cat")


CUSTOM = "/v1/endpoints/123/deployedModels/456"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A function as Vertex AI starts a custom container, with its defaults for the two routes, and a key."""
    log = tmp_path_factory.mktemp("vertex") / "log"
    routes = {"AIP_PREDICT_ROUTE": f"{CUSTOM}:predict", "AIP_HEALTH_ROUTE": CUSTOM}
    with serving("embed_text", log, API_KEY=KEY, **routes) as server:
        yield server


def test_a_custom_container_answers_where_vertex_ai_asks(container: Server) -> None:
    body, headers = {"instances": [{"text": "a cat"}]}, {"X-API-Key": KEY}

    for path in (f"{CUSTOM}:predict", "/", ENDPOINT):
        reply = container.post(path, json=body, headers=headers)
        assert_texts([reply.json()["predictions"][0]["textEmbedding"]], "a cat")


def test_its_health_route_answers_without_the_key(container: Server) -> None:
    assert container.get(CUSTOM).json()["status"] == "ready"
    assert container.post(CUSTOM).status_code == 401
    reply = container.post(f"{CUSTOM}:predict", json={"instances": [{"text": "a"}]})
    assert reply.json()["error"]["status"] == "UNAUTHENTICATED"


def test_a_path_may_serve_both_and_predictions_still_need_the_key(log: Path) -> None:
    routes = {"AIP_PREDICT_ROUTE": "/health", "AIP_HEALTH_ROUTE": "/health/"}
    with serving("gateway", log, API_KEY=KEY, **routes) as server:
        assert server.get("/health").json()["status"] == "ready"
        body = {"instances": [{"text": "a"}]}
        assert server.post("/health", json=body).status_code == 401
        assert server.post("/health", json=body, headers={"X-API-Key": KEY}).status_code == 200


def test_a_function_without_the_tower_says_so(container: Server) -> None:
    body = {"instances": [{"image": _image(CAT)}]}

    reply = container.post("/", json=body, headers={"X-API-Key": KEY})

    assert (reply.status_code, error_code(reply)) == (400, "tower_missing")
