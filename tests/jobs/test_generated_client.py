"""A client generated from our document does jobs to completion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.generated_clients import GeneratedClient, generated_client
from tests.support.pictures import data_uri, in_base64, picture
from tests.support.serving import Server
from tests.support.vectors import assert_images, assert_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")


@pytest.fixture(scope="module")
def client(gateway: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedClient]:
    """The client, for the gateway, in a package that was generated into a temporary folder."""
    document = gateway.get("/openapi.json").text
    folder = tmp_path_factory.mktemp("client")
    with generated_client(document, gateway.url, folder, "our_client") as client:
        yield client


def test_all_but_pictures_as_such_is_understood(client: GeneratedClient) -> None:
    # As bodies and as replies.
    assert client.warnings == [
        "WARNING parsing POST /embed/image within embeddings.",
        "Unsupported content type image/*",
        "WARNING parsing GET /thumbnail within search.",
        "WARNING parsing GET /original within search.",
    ]


def _job(client: GeneratedClient, task: str, body: Any, batched: str = "") -> Any:
    base = f"api_tasks_{task}{batched}"
    kind = "batched_job" if batched else "job"
    taken = client.call(f"new_{kind}_{base}_model_jobs_post", "demo", tag=task, body=body)
    assert taken.status.value == "starting"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = client.call(f"get_{kind}_results_{base}_jobs_job_get", taken.id, tag=task)
        if state.status.value == "complete":
            return state.result
        assert state.status.value in ("starting", "running")
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_a_job_of_one_picture(client: GeneratedClient) -> None:
    result = _job(client, "image_embedding", client.model("ImageEmbeddingInput")(image=data_uri(CAT)))

    assert_images([result.embedding], CAT)


def test_a_job_of_many_pictures(client: GeneratedClient) -> None:
    images = [in_base64(CAT), data_uri(COFFEE), in_base64(b"no picture")]
    body = client.model("BatchedImageEmbeddingInput")(image=images)

    result = _job(client, "image_embedding", body, "_batched")

    assert_images([entry.embedding for entry in result[:2]], CAT, COFFEE)
    assert result[2].embedding == []
    assert result[2].error.code == "image_unsupported"


def test_a_job_of_a_text(client: GeneratedClient) -> None:
    result = _job(client, "text_embedding", client.model("TextEmbeddingInput")(text="a cat"))

    assert_texts([result.embedding], "a cat")


def test_what_is_wrong_is_understood(client: GeneratedClient) -> None:
    body = client.model("TextEmbeddingInput")(text="a cat")
    operation = "new_job_api_tasks_text_embedding_model_jobs_post"

    refused = client.call(operation, "none", tag="text_embedding", body=body)

    assert refused.detail == "The model 'none' is not served here; there is demo."


def test_the_native_routes_and_the_listings(client: GeneratedClient) -> None:
    # One operation of several protocols: its reply is that of the request's key and content type.
    reply = client.call("embed_texts", tag="embeddings", body=client.model("TextsBody")(texts=["a cat"]))
    models = client.call("list_all_models_api_models_get", tag="models")
    status = client.call("get_model_status_api_models_model_status_get", "demo", tag="models")

    assert_texts(reply.embeddings, "a cat")
    assert models == ["demo"]
    assert (status.status.value, status.jobs) == ("running", [])
