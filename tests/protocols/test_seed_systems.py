"""Each system this package replaces: its own example request, sent to the running gateway.

Every row of the README's table of routes has its test here: the reply's shape is the original's, and the
vector is the engine's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.pictures import data_uri, in_base64, picture, web
from tests.support.serving import Server, error_code
from tests.support.vectors import assert_images, assert_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web({"/cat.jpg": CAT, "/coffee.webp": COFFEE}) as url:
        yield url


# The notebook's API: forms.


def test_notebook_image(gateway: Server) -> None:
    reply = gateway.post("/embed/image", files={"file": ("cat.jpg", CAT, "image/jpeg")}).json()

    assert reply["filename"] == "cat.jpg"
    assert_images([reply["embedding"]], CAT)


def test_notebook_text(gateway: Server) -> None:
    reply = gateway.post("/embed/text", data={"text": "a photo of a cat"}).json()

    assert reply["text"] == "a photo of a cat"
    assert_texts([reply["embedding"]], "a photo of a cat")


def test_notebook_status(gateway: Server) -> None:
    assert "running" in gateway.get("/").json()["status"]


# The Cloud Run microservice: JSON lists.


def test_microservice_text(gateway: Server) -> None:
    reply = gateway.post("/embed/text", json={"texts": ["Hello world", "Computer vision"]}).json()

    assert_texts(reply["embeddings"], "Hello world", "Computer vision")


def test_microservice_image(gateway: Server, site: str) -> None:
    reply = gateway.post("/embed/image", json={"urls": [f"{site}/cat.jpg", f"{site}/coffee.webp"]}).json()

    assert_images(reply["embeddings"], CAT, COFFEE)


def test_microservice_image_that_fails(gateway: Server, site: str) -> None:
    reply = gateway.post("/embed/image", json={"urls": [f"{site}/none.jpg", f"{site}/cat.jpg"]})

    assert reply.status_code == 200
    assert reply.json()["embeddings"][0] == []
    assert_images(reply.json()["embeddings"][1:], CAT)


def test_microservice_mixed(gateway: Server, site: str) -> None:
    body = {"texts": ["A photo of a cat"], "urls": [f"{site}/cat.jpg"]}

    reply = gateway.post("/embed/mixed", json=body).json()

    assert_texts(reply["text_embeddings"], "A photo of a cat")
    assert_images(reply["image_embeddings"], CAT)


def test_microservice_health(gateway: Server) -> None:
    gateway.post("/embed/text", json={"texts": ["warm"]})

    reply = gateway.get("/health").json()

    assert (reply["status"], reply["model_loaded"]) == ("healthy", True)


# The photo app: a URL in a form, from a browser.


def test_photo_app_upload(gateway: Server, site: str) -> None:
    headers = {"accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}

    reply = gateway.post("/upload", data=f"imageUrl={site}/cat.jpg", headers=headers).json()

    assert isinstance(reply["message"], str)
    assert_images([reply["embedding"]], CAT)


def test_photo_app_upload_that_fails(gateway: Server, site: str) -> None:
    reply = gateway.post("/upload", data={"imageUrl": f"{site}/none.jpg"})

    assert reply.status_code == 422
    assert error_code(reply) == "fetch_failed"


# The image-text encoder: one text or picture in JSON.


def test_encoder_text(gateway: Server) -> None:
    reply = gateway.post("/encode_text", json={"text": "This is a sample text to encode"}).json()

    assert_texts([reply["embedding"]], "This is a sample text to encode")


@pytest.mark.parametrize("form", ["image_url", "image_b64"])
def test_encoder_image(gateway: Server, site: str, form: str) -> None:
    value = f"{site}/cat.jpg" if form == "image_url" else in_base64(CAT)

    reply = gateway.post("/encode_image", json={form: value}).json()

    assert_images([reply["embedding"]], CAT)


@pytest.mark.parametrize(
    "body",
    [{}, {"image_url": "", "image_b64": ""}, {"image_url": None}, {"image_b64": 3}, {"image_b64": "?"}],
)
def test_encoder_image_that_is_not_one(gateway: Server, body: dict[str, Any]) -> None:
    assert gateway.post("/encode_image", json=body).status_code == 400


def test_encoder_health(gateway: Server) -> None:
    assert gateway.get("/health").json()["status"] == "healthy"


# The feature-extraction server: jobs to poll.


def test_job_image(gateway: Server) -> None:
    # As in the original's example, WebP bytes are called JPEG.
    state = _job(gateway, "image-embedding", {"image": data_uri(COFFEE, "image/jpeg"), "config": {}})

    assert_images([state["result"]["embedding"]], COFFEE)


def test_job_text(gateway: Server) -> None:
    state = _job(gateway, "text-embedding", {"text": "a cat"})

    assert_texts([state["result"]["embedding"]], "a cat")


def test_batched_job_image(gateway: Server, site: str) -> None:
    images = [in_base64(CAT), f"{site}/coffee.webp", in_base64(b"no picture"), data_uri(CAT)]

    state = _job(gateway, "image-embedding", {"image": images, "config": [{}, {}, {}, {}]}, batched=True)

    result = state["result"]
    assert_images([result[0]["embedding"], result[1]["embedding"], result[3]["embedding"]], CAT, COFFEE, CAT)
    assert result[2]["embedding"] == []
    assert result[2]["error"]["code"] == "image_unsupported"


def test_batched_job_text(gateway: Server) -> None:
    state = _job(gateway, "text-embedding", {"text": ["a cat", ""]}, batched=True)

    assert_texts([entry["embedding"] for entry in state["result"]], "a cat", "")


def test_a_result_can_be_read_again(gateway: Server) -> None:
    job = gateway.post("/api/tasks/text-embedding/demo/jobs", json={"text": "again"}).json()["id"]

    first = _poll(gateway, f"/api/tasks/text-embedding/jobs/{job}")

    assert gateway.get(f"/api/tasks/text-embedding/jobs/{job}").json() == first


@pytest.mark.parametrize("batched", [False, True])
def test_a_result_is_not_read_as_one_of_the_other_kind(gateway: Server, batched: bool) -> None:
    text, one, other = ["a"] if batched else "a", "batched/" * batched, "batched/" * (not batched)
    job = gateway.post(f"/api/tasks/text-embedding/{one}demo/jobs", json={"text": text}).json()["id"]
    _poll(gateway, f"/api/tasks/text-embedding/{one}jobs/{job}")

    assert gateway.get(f"/api/tasks/text-embedding/{other}jobs/{job}").status_code == 404


def test_a_job_with_a_bad_picture_fails_with_a_reason(gateway: Server) -> None:
    state = _job(gateway, "image-embedding", {"image": in_base64(b"no picture")}, expect="failed")

    assert set(state) == {"status", "error"}
    assert state["error"]["code"] == "image_unsupported"


@pytest.mark.parametrize(
    ("task", "body"), [("image-embedding", {"image": in_base64(CAT)}), ("text-embedding", {"text": "a cat"})]
)
def test_legacy_jobs_answer_at_once(gateway: Server, task: str, body: dict[str, str]) -> None:
    reply = gateway.post(f"/api/legacy/tasks/{task}/demo/jobs", json=body).json()

    assert list(reply) == ["embedding"]
    if "image" in body:
        assert_images([reply["embedding"]], CAT)
    else:
        assert_texts([reply["embedding"]], "a cat")


def test_listings(gateway: Server) -> None:
    tasks = ["image-embedding", "text-embedding", "zero-shot-image-classification"]
    assert gateway.get("/api/tasks").json() == tasks
    assert gateway.get("/api/tasks/image-embedding/models").json() == ["demo"]
    assert gateway.get("/api/models").json() == ["demo"]
    assert gateway.get("/api/models/demo/tasks").json() == tasks


def test_models_start_and_stop(gateway: Server) -> None:
    stopped = gateway.post("/api/models/demo/stop")
    state = gateway.get("/api/models/demo/status").json()
    started = gateway.post("/api/models/demo/start")

    assert (stopped.status_code, stopped.json()) == (200, {})
    assert state == {"status": "stopped", "jobs": []}
    assert (started.status_code, started.json()) == (200, {})
    assert gateway.get("/api/models/demo/status").json() == {"status": "running", "jobs": []}


@pytest.mark.parametrize(
    "path",
    [
        "/api/tasks/image-embedding/none/jobs",
        "/api/tasks/none/demo/jobs",
        "/api/legacy/tasks/text-embedding/none/jobs",
        "/api/models/none/start",
    ],
)
def test_unknown_tasks_and_models(gateway: Server, path: str) -> None:
    reply = gateway.post(path, json={"image": "aaaa", "text": "a"})

    assert reply.status_code == 404
    assert isinstance(reply.json()["detail"], str)


NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("job", [NOBODYS, "x", "..", "%2e%2e%2fetc", "%0A", "a" * 300])
def test_unknown_jobs(gateway: Server, job: str) -> None:
    reply = gateway.get(f"/api/tasks/image-embedding/jobs/{job}")

    assert reply.status_code == 404
    assert isinstance(reply.json()["detail"], str)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["body"]),
        ({"image": 3}, ["body", "image"]),
        ({"image": ["a", 3]}, ["body", "image"]),
        ({"image": "aaaa", "config": "x"}, ["body", "config"]),
    ],
)
def test_what_does_not_fit_its_schema(gateway: Server, body: dict[str, Any], loc: list[str]) -> None:
    reply = gateway.post("/api/tasks/image-embedding/demo/jobs", json=body)

    (detail,) = reply.json()["detail"]
    assert reply.status_code == 422
    assert detail["loc"] == loc
    assert isinstance(detail["msg"], str)
    assert isinstance(detail["type"], str)


def _job(
    gateway: Server, task: str, body: dict[str, Any], *, batched: bool = False, expect: str = "complete"
) -> Any:
    part = "batched/" if batched else ""
    taken = gateway.post(f"/api/tasks/{task}/{part}demo/jobs", json=body)
    assert taken.status_code == 200, taken.text
    assert uuid.UUID(taken.json()["id"]).version == 4
    assert taken.json()["status"] == "starting"
    state = _poll(gateway, f"/api/tasks/{task}/{part}jobs/{taken.json()['id']}")
    assert state["status"] == expect
    return state


def _poll(gateway: Server, path: str) -> Any:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = gateway.get(path).json()
        assert state["status"] in ("starting", "running", "complete", "failed")
        if state["status"] in ("complete", "failed"):
            return state
        assert set(state) == {"status"}
        time.sleep(0.05)
    raise AssertionError("the job does not end")
