"""A client generated from the document, as a user would generate one, does jobs to completion."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.pictures import data_uri, in_base64, picture
from tests.support.serving import Server
from tests.support.vectors import assert_images, assert_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")
PACKAGE = "generated_client"


@pytest.fixture(scope="module")
def client(gateway: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client, for the gateway, in a package that was generated into a temporary folder."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(gateway.get("/openapi.json").text)
    (folder / "config.json").write_text(json.dumps({"post_hooks": []}))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--path", "openapi.json", "--output-path", PACKAGE, "--config", "config.json"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    # It knows no pictures as such, neither as bodies nor as replies; all else it must understand.
    warnings = [
        line
        for line in (made.stdout + made.stderr).splitlines()
        if line.startswith(("WARNING", "ERROR", "Unsup"))
    ]
    assert warnings == [
        "WARNING parsing POST /embed/image within embeddings.",
        "Unsupported content type image/*",
        "WARNING parsing GET /thumbnail within search.",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        with importlib.import_module(f"{PACKAGE}.client").Client(gateway.url) as connected:
            yield connected
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def _call(operation: str, *args: Any, tag: str, **arguments: Any) -> Any:
    module = importlib.import_module(f"{PACKAGE}.api.{tag}.{operation}")
    return module.sync(*args, **arguments)


def _model(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(f"{PACKAGE}.models"), name)
    return found


def _job(client: Any, task: str, body: Any, batched: str = "") -> Any:
    base = f"api_tasks_{task}{batched}"
    kind = "batched_job" if batched else "job"
    taken = _call(f"new_{kind}_{base}_model_jobs_post", "demo", tag=task, client=client, body=body)
    assert taken.status.value == "starting"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = _call(f"get_{kind}_results_{base}_jobs_job_get", taken.id, tag=task, client=client)
        if state.status.value == "complete":
            return state.result
        assert state.status.value in ("starting", "running")
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_a_job_of_one_picture(client: Any) -> None:
    result = _job(client, "image_embedding", _model("ImageEmbeddingInput")(image=data_uri(CAT)))

    assert_images([result.embedding], CAT)


def test_a_job_of_many_pictures(client: Any) -> None:
    images = [in_base64(CAT), data_uri(COFFEE), in_base64(b"no picture")]
    body = _model("BatchedImageEmbeddingInput")(image=images)

    result = _job(client, "image_embedding", body, "_batched")

    assert_images([entry.embedding for entry in result[:2]], CAT, COFFEE)
    assert result[2].embedding == []
    assert result[2].error.code == "image_unsupported"


def test_a_job_of_a_text(client: Any) -> None:
    result = _job(client, "text_embedding", _model("TextEmbeddingInput")(text="a cat"))

    assert_texts([result.embedding], "a cat")


def test_what_is_wrong_is_understood(client: Any) -> None:
    body = _model("TextEmbeddingInput")(text="a cat")
    operation = "new_job_api_tasks_text_embedding_model_jobs_post"

    refused = _call(operation, "none", tag="text_embedding", client=client, body=body)

    assert refused.detail == "The model 'none' is not served here; there is demo."


def test_the_native_routes_and_the_listings(client: Any) -> None:
    reply = _call("embed_texts", client=client, tag="embeddings", body=_model("TextsBody")(texts=["a cat"]))
    models = _call("list_all_models_api_models_get", client=client, tag="models")
    status = _call("get_model_status_api_models_model_status_get", "demo", client=client, tag="models")

    assert_texts(reply.embeddings, "a cat")
    assert models == ["demo"]
    assert (status.status.value, status.jobs) == ("running", [])
