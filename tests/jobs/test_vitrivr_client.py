"""The client generated from the original's OpenAPI document works with our gateway, unchanged.

The original is vitrivr/feature-extraction-server; tests/support/vitrivr_openapi.json holds its interface.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.generated_clients import GeneratedClient, generated_client
from tests.support.pictures import data_uri, in_base64, picture
from tests.support.serving import ROOT, Server
from tests.support.vectors import assert_images, assert_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")
DOCUMENT = (ROOT / "tests" / "support" / "vitrivr_openapi.json").read_text()


@pytest.fixture(scope="module")
def client(gateway: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedClient]:
    folder = tmp_path_factory.mktemp("vitrivr")
    with generated_client(DOCUMENT, gateway.url, folder, "vitrivr_client") as client:
        yield client


def _until_it_ends(client: GeneratedClient, task: str, body: Any, batched: str = "") -> Any:
    """The last state of a job; every state before it is one that the client understands."""
    base = f"api_tasks_{task}{batched}"
    kind = "batched_job" if batched else "job"
    taken = client.call(f"new_{kind}_{base}_model_jobs_post", "demo", tag=task, body=body)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = client.call(f"get_{kind}_results_{base}_jobs_job_get", taken.id, tag=task)
        if state.status.value in ("complete", "failed"):
            return state
        assert "result" not in state.to_dict()
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def test_the_generator_understands_all_of_the_document(client: GeneratedClient) -> None:
    assert client.warnings == []


def test_a_job_of_a_picture(client: GeneratedClient) -> None:
    # As in the original's example, WebP bytes are called JPEG.
    body = client.model("ImageEmbeddingInput")(image=data_uri(COFFEE, "image/jpeg"))

    state = _until_it_ends(client, "image_embedding", body)

    assert state.status.value == "complete"
    assert_images([state.result.embedding], COFFEE)


def test_a_job_of_a_text(client: GeneratedClient) -> None:
    config_type: Any = client.model("TextEmbeddingInputConfig")
    config = config_type.from_dict({"any": 1})
    body = client.model("TextEmbeddingInput")(text="a cat", config=config)

    state = _until_it_ends(client, "text_embedding", body)

    assert_texts([state.result.embedding], "a cat")


def test_batched_jobs(client: GeneratedClient) -> None:
    images = client.model("BatchedImageEmbeddingInput")(image=[in_base64(CAT), data_uri(COFFEE)])
    texts = client.model("BatchedTextEmbeddingInput")(text=["a cat", "", "a dog"])

    of_images = _until_it_ends(client, "image_embedding", images, "_batched")
    of_texts = _until_it_ends(client, "text_embedding", texts, "_batched")

    assert_images([entry.embedding for entry in of_images.result], CAT, COFFEE)
    assert_texts([entry.embedding for entry in of_texts.result], "a cat", "", "a dog")


CLASSES = ["cat", "rocket", "cup of coffee"]
ZERO_SHOT = "zero_shot_image_classification"


def _expected(gateway: Server, *pictures: bytes) -> list[list[float]]:
    """Probabilities in the order of CLASSES, from the native route."""
    images = [in_base64(data) for data in pictures]
    body = {"images": images, "labels": CLASSES, "templates": ["{}"]}
    rows = gateway.post("/classify", json=body).json()["results"]
    by_label = [{entry["label"]: entry["probability"] for entry in row} for row in rows]
    return [[row[label] for label in CLASSES] for row in by_label]


def test_a_picture_is_classified(client: GeneratedClient, gateway: Server) -> None:
    body = client.model("ZeroShotImageClassificationInput")(image=data_uri(CAT), classes=CLASSES)

    state = _until_it_ends(client, ZERO_SHOT, body)
    operation = f"new_job_results_api_legacy_tasks_{ZERO_SHOT}_model_jobs_post"
    output = client.call(operation, "demo", tag=ZERO_SHOT, body=body)

    assert state.status.value == "complete"
    assert [state.result.probabilities] == [output.probabilities] == _expected(gateway, CAT)


def test_pictures_are_classified_in_a_batched_job(client: GeneratedClient, gateway: Server) -> None:
    pictures = [in_base64(CAT), in_base64(b"no picture"), data_uri(COFFEE)]
    body = client.model("BatchedZeroShotImageClassificationInput")(image=pictures, classes=CLASSES)

    state = _until_it_ends(client, ZERO_SHOT, body, "_batched")

    rows = [entry.probabilities for entry in state.result]
    assert [rows[0], rows[2]] == _expected(gateway, CAT, COFFEE)
    assert (rows[1], state.result[1]["error"]["code"]) == ([], "image_unsupported")


def test_classes_that_are_wrong_are_a_validation_error(client: GeneratedClient) -> None:
    input_type = client.model("ZeroShotImageClassificationInput")

    for classes, place in (
        ({}, ["classes"]),
        ({"classes": []}, ["classes"]),
        ({"classes": ["a", ""]}, ["classes", 1]),
    ):
        for operation in (
            "new_job_api_tasks_{}_model_jobs_post",
            "new_job_results_api_legacy_tasks_{}_model_jobs_post",
        ):
            body = input_type(image=data_uri(CAT), **classes)
            refused = client.call(operation.format(ZERO_SHOT), "demo", tag=ZERO_SHOT, body=body)
            assert refused.detail[0].loc == ["body", *place]


def test_a_failed_job(client: GeneratedClient) -> None:
    body = client.model("ImageEmbeddingInput")(image=in_base64(b"no picture"))

    state = _until_it_ends(client, "image_embedding", body)

    assert state.status.value == "failed"
    assert "result" not in state.to_dict()
    assert state["error"]["code"] == "image_unsupported"


def test_the_legacy_route(client: GeneratedClient) -> None:
    body = client.model("ImageEmbeddingInput")(image=data_uri(CAT))
    operation = "new_job_results_api_legacy_tasks_image_embedding_model_jobs_post"

    output = client.call(operation, "demo", tag="image_embedding", body=body)

    assert output.to_dict().keys() == {"embedding"}
    assert_images([output.embedding], CAT)


def test_what_does_not_fit_is_a_validation_error(client: GeneratedClient) -> None:
    body = client.model("TextEmbeddingInput")(text=5)
    operation = "new_job_api_tasks_text_embedding_model_jobs_post"

    refused = client.call(operation, "demo", tag="text_embedding", body=body)

    assert refused.detail[0].loc == ["body", "text"]


def test_listings(client: GeneratedClient) -> None:
    tasks = client.call("list_all_tasks_api_tasks_get", tag="tasks")

    assert tasks == ["image-embedding", "text-embedding", "zero-shot-image-classification"]
    for task in tasks:
        operation = "list_all_models_for_task_api_tasks_task_models_get"
        assert client.call(operation, task, tag="tasks") == ["demo"]
    assert client.call("list_all_models_api_models_get", tag="models") == ["demo"]
    operation = "list_all_tasks_for_model_api_models_model_tasks_get"
    assert client.call(operation, "demo", tag="models") == tasks


def test_start_and_stop(client: GeneratedClient) -> None:
    def status() -> Any:
        return client.call("get_model_status_api_models_model_status_get", "demo", tag="models")

    # Both bodies are JSON, because the document promises it and the client parses it.
    client.call("stop_model_api_models_model_stop_post", "demo", tag="models")
    assert (status().status.value, status().jobs) == ("stopped", [])
    client.call("start_model_api_models_model_start_post", "demo", tag="models")
    assert (status().status.value, status().jobs) == ("running", [])


def _operations(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Operations by method and path."""
    return {
        f"{method} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def test_our_document_has_all_of_the_original(gateway: Server) -> None:
    ours = gateway.get("/openapi.json").json()
    theirs = json.loads(DOCUMENT)

    for place, operation in _operations(theirs).items():
        same = _operations(ours)[place]
        assert (same["operationId"], same["tags"]) == (operation["operationId"], operation["tags"])
        assert set(operation["responses"]) <= set(same["responses"]), place
    for name, schema in theirs["components"]["schemas"].items():
        same = ours["components"]["schemas"][name]
        assert set(schema.get("properties", ())) <= set(same.get("properties", ())), name
        assert set(same.get("required", ())) <= set(schema.get("required", ["detail"])), name
    model_status = ours["components"]["schemas"]["ModelStatus"]["properties"]
    assert model_status["jobs"]["items"] == {"$ref": "#/components/schemas/JobStatus"}
