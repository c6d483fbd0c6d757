"""Several models side by side: which one answers, and what is said where none does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from clip_embeddings.config import Settings
from clip_embeddings.embedding import EmbedRequest, embed
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import make_runtime
from tests.support.models import copy_demo, copy_model
from tests.support.pictures import in_base64, picture, web
from tests.support.serving import Server, error_code, error_message, provenance, refusal, serving
from tests.support.vectors import assert_images, assert_texts, raw_texts

CAT = picture()
SERVED = "demo, second, pictures"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MODELS: the bundled one, one whose vectors are not normalised, one without a text tower."""
    root = tmp_path_factory.mktemp("models")
    second = copy_model(
        root / "second", space="another space", normalize=False, aliases=["Zweites", "number-two"]
    )
    return f"demo,{second},{copy_model(root / 'pictures', ('image',))}"


@pytest.fixture(scope="module")
def server(models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        "gateway",
        tmp_path_factory.mktemp("several") / "log",
        MODELS=models,
        PROTOCOL_MODELS="encoder=number-two, photo-app=pictures",
        JOBS_URL=tmp_path_factory.mktemp("jobs").as_uri(),
        FETCH_PRIVATE_HOSTS="127.0.0.1",
    ) as running:
        yield running


def _assert_second(vectors: list[list[float]], reply: requests.Response, *texts: str) -> None:
    made_by = provenance(reply)
    assert (made_by["model"], made_by["space"]) == ("second", "another space")
    np.testing.assert_allclose(vectors, raw_texts(*texts), rtol=1e-5, atol=1e-6)


def test_all_are_listed(server: Server) -> None:
    names = sorted(SERVED.split(", "))

    assert server.get("/").json()["model"] == "demo"
    assert server.get("/").json()["models"] == names
    assert sorted(server.get("/api/models").json()) == names
    assert server.get("/api/tasks/text-embedding/models").json() == ["demo", "second"]
    assert server.get("/api/tasks/image-embedding/models").json() == ["demo", "second", "pictures"]
    assert server.get("/api/models/pictures/tasks").json() == ["image-embedding"]


def test_the_first_answers_unless_another_is_named(server: Server) -> None:
    unnamed = server.post("/embed/text", json={"texts": ["a cat"]})
    named = server.post("/embed/text", json={"texts": ["a cat", "b"], "model": "Second"})
    aliased = server.post("/embed/text", json={"texts": ["a cat", "b"], "model": "zweites"})

    assert unnamed.json()["model"] == provenance(unnamed)["model"] == "demo"
    assert_texts(unnamed.json()["embeddings"], "a cat")
    _assert_second(named.json()["embeddings"], named, "a cat", "b")
    assert (named.json()["model"], named.json()["space"]) == ("second", "another space")
    assert aliased.json() == named.json()


def test_the_query_names_one_for_forms_and_raw_pictures(server: Server) -> None:
    text = server.post("/embed/text?model=second", data={"text": "a cat"})
    file = server.post("/embed/image?model=pictures", files={"file": CAT})
    raw = server.post("/embed/image?model=pictures", data=CAT, headers={"Content-Type": "image/jpeg"})

    _assert_second([text.json()["embedding"]], text, "a cat")
    assert provenance(file)["model"] == provenance(raw)["model"] == raw.json()["model"] == "pictures"
    assert_images([file.json()["embedding"], raw.json()["embedding"]], CAT, CAT)


def test_a_protocol_has_its_own_which_a_request_overrides(server: Server) -> None:
    own = server.post("/encode_text", json={"text": "a cat"})
    named = server.post("/encode_text", json={"text": "a cat", "model": "demo"})
    asked = server.post("/encode_text?model=demo", json={"text": "a cat"})
    with web({"/cat": CAT}) as site:
        upload = server.post("/upload", data={"imageUrl": f"{site}/cat"})
        other = server.post("/upload?model=demo", data={"imageUrl": f"{site}/cat"})

    _assert_second([own.json()["embedding"]], own, "a cat")
    assert provenance(named)["model"] == provenance(asked)["model"] == "demo"
    assert_texts([named.json()["embedding"], asked.json()["embedding"]], "a cat", "a cat")
    assert (provenance(upload)["model"], provenance(other)["model"]) == ("pictures", "demo")
    assert_images([upload.json()["embedding"], other.json()["embedding"]], CAT, CAT)


def test_a_job_names_its_model_in_its_path(server: Server) -> None:
    legacy = server.post("/api/legacy/tasks/text-embedding/second/jobs", json={"text": "a cat"})
    job = server.post("/api/tasks/text-embedding/second/jobs", json={"text": "a cat"}).json()["id"]
    end = time.monotonic() + 20
    while (reply := server.get(f"/api/tasks/text-embedding/jobs/{job}")).json()["status"] != "complete":
        assert time.monotonic() < end, reply.text
        assert provenance(reply) == {}
        time.sleep(0.05)

    _assert_second([legacy.json()["embedding"]], legacy, "a cat")
    _assert_second([reply.json()["result"]["embedding"]], reply, "a cat")
    assert provenance(reply) == provenance(legacy)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/embed/text", {"json": {"texts": ["a"], "model": "third"}}),
        ("/embed/text?model=third", {"data": {"text": "a"}}),
        ("/embed/text?model=third", {"json": {"texts": ["a"], "model": "demo"}}),
        ("/embed/image?model=third", {"files": {"file": CAT}}),
        ("/encode_text", {"json": {"text": "a", "model": "third"}}),
        ("/api/tasks/text-embedding/third/jobs", {"json": {"text": "a"}}),
        ("/api/legacy/tasks/image-embedding/third/jobs", {"json": {"image": in_base64(CAT)}}),
        ("/api/models/third/start", {}),
    ],
)
def test_an_unknown_one_is_told_which_there_are(server: Server, path: str, arguments: dict[str, Any]) -> None:
    reply = server.post(path, **arguments)

    message = f"The model 'third' is not served here; there is {SERVED}."
    assert reply.status_code == 404
    if path.startswith("/api/"):
        assert reply.json() == {"detail": message}
    else:
        assert (error_code(reply), error_message(reply)) == ("model_unknown", message)
        # Clients of the other systems print `error` as it is.
        assert isinstance(reply.json()["error"], dict if "texts" in arguments.get("json", ()) else str)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/embed/text", {"json": {"texts": ["a"], "model": "pictures"}}),
        ("/embed/text?model=pictures", {"data": {"text": "a"}}),
        ("/embed/mixed", {"json": {"texts": ["a"], "images": [in_base64(CAT)], "model": "pictures"}}),
    ],
)
def test_texts_for_a_model_of_pictures(server: Server, path: str, arguments: dict[str, Any]) -> None:
    reply = server.post(path, **arguments)

    message = "The model 'pictures' has no text tower: it cannot embed that."
    assert (reply.status_code, error_code(reply), error_message(reply)) == (400, "tower_missing", message)


@pytest.mark.parametrize("kind", ["tasks/text-embedding", "tasks/text-embedding/batched"])
def test_a_text_job_for_a_model_of_pictures(server: Server, kind: str) -> None:
    reply = server.post(f"/api/{kind}/pictures/jobs", json={"text": "a"})

    assert reply.status_code == 404
    assert reply.json() == {"detail": "The model 'pictures' does not do text-embedding."}


def test_starting_a_model_loads_what_it_has(server: Server) -> None:
    server.post("/api/models/pictures/stop")
    assert server.get("/api/models/pictures/status").json()["status"] == "stopped"

    assert server.post("/api/models/pictures/start").status_code == 200
    assert server.get("/api/models/pictures/status").json()["status"] == "running"


def test_towers_load_at_first_use(models: str) -> None:
    runtime = make_runtime("test", ("text", "image"), Settings(model="demo", models=tuple(models.split(","))))
    towers = {
        (name, tower): getattr(model, tower)
        for name, model in runtime.models.items()
        for tower in ("text", "image")
    }

    def loaded() -> set[tuple[str, str]]:
        return {key for key, tower in towers.items() if tower.made}

    assert loaded() == set()
    assert not runtime.loaded()
    embed(EmbedRequest(texts=["a"], model="second"), runtime, Timings())
    assert loaded() == {("second", "text")}
    assert runtime.loaded()
    embed(EmbedRequest(images=[ImageBytes(CAT)], model="pictures"), runtime, Timings())
    assert loaded() == {("second", "text"), ("pictures", "image")}


def test_a_model_of_pictures_alone(models: str, log: Path) -> None:
    """A gateway serves it: pictures as ever, and to texts every protocol says no in its own way."""
    with serving("gateway", log, MODEL=models.rpartition(",")[2]) as server:
        assert server.get("/ready").status_code == 200
        picture_reply = server.post("/embed/image", json={"images": [in_base64(CAT)]})
        refusals = [
            server.post("/embed/text", json={"texts": ["a"]}),
            server.post("/encode_text", json={"text": "a"}),
            server.post("/embed/text", data={"text": "a"}),
        ]
        job = server.post("/api/tasks/text-embedding/pictures/jobs", json={"text": "a"})

    assert_images(picture_reply.json()["embeddings"], CAT)
    for refused in refusals:
        assert refused.status_code == 400
        assert error_code(refused) == "tower_missing"
    assert job.status_code == 404
    assert "detail" in job.json()


def test_a_function_for_texts_stands_a_model_of_pictures(models: str, log: Path) -> None:
    with serving("embed_text", log, MODELS=models) as server:
        assert server.get("/ready").status_code == 200
        refused = server.post("/", json={"texts": ["a"], "model": "pictures"})
        answered = server.post("/", json={"texts": ["a"], "model": "second"})

    assert error_code(refused) == "tower_missing"
    _assert_second(answered.json()["embeddings"], answered, "a")


@pytest.mark.parametrize(
    "lost",
    ["image.data", *(pytest.param(lost, marks=pytest.mark.full) for lost in ("the folder", "tokenizer.bpe"))],
)
def test_a_model_that_is_lost_while_serving_is_not_ready(tmp_path: Path, log: Path, lost: str) -> None:
    folder = copy_demo(tmp_path / "model")
    checks = {"AIP_HEALTH_ROUTE": "/aip"}
    with serving("gateway", log, MODEL=str(folder), **checks) as server:
        away = (folder if lost == "the folder" else folder / lost).rename(tmp_path / "away")
        for path in ("/ready", "/ready", "/aip"):
            reply = server.get(path)
            assert (reply.status_code, reply.json()) == (503, {"status": "not ready", "model": "model"})
        away.rename(folder if lost == "the folder" else folder / lost)

        # Nothing of the failure is kept.
        assert server.get("/ready").status_code == 200
    assert "ERROR not ready: " in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_renamed_folder_is_served_under_its_own_name(tmp_path: Path, log: Path) -> None:
    renamed = copy_demo(tmp_path / "Emoji 2")
    with serving(
        "gateway", log, MODEL=str(renamed), MODELS="demo", PROTOCOL_MODELS="openai=emoji-2"
    ) as server:
        assert [entry["id"] for entry in server.get("/v1/models").json()["data"]][:2] == ["emoji-2", "demo"]
        for name, served in (("Emoji 2", "emoji-2"), ("emoji-2", "emoji-2"), ("demo", "demo")):
            reply = server.post("/embed/text", json={"texts": ["a cat"], "model": name})
            assert (reply.status_code, reply.json()["model"]) == (200, served)
    # The name that it was baked under is kept for clients that have it.
    with serving("gateway", log, MODEL=str(renamed)) as server:
        reply = server.post("/embed/text", json={"texts": ["a cat"], "model": "demo"})
        assert (reply.status_code, reply.json()["model"]) == (200, "emoji-2")


def test_what_cannot_be_served_stops_the_start(models: str, tmp_path: Path) -> None:
    twin = copy_model(tmp_path / "demo")

    assert "third: manifest.json is missing" in refusal("gateway", MODELS="demo,third")
    assert "MODELS names two models called demo." in refusal("gateway", MODELS=f"demo,{twin}")
    sentence = "PROTOCOL_MODELS names 'third', which is not in MODEL or MODELS."
    assert sentence in refusal("gateway", MODELS=models, PROTOCOL_MODELS="encoder=third")


def test_aliases_and_protocols_that_take_any_name(models: str, log: Path) -> None:
    with serving(
        "gateway",
        log,
        MODELS=models,
        MODEL_ALIASES="text-embedding-3-small=second, org/model=Zweites",
        ANY_MODEL_PROTOCOLS="encoder,notebook",
        PROTOCOL_MODELS="encoder=second",
    ) as server:
        aliased = server.post("/embed/text", json={"texts": ["a"], "model": "text-embedding-3-small"})
        slashed = server.post("/embed/text?model=org%2Fmodel", data={"text": "a"})
        anything = server.post("/encode_text", json={"text": "a", "model": "jina-clip-v2"})
        known = server.post("/encode_text", json={"text": "a", "model": "demo"})
        default = server.post("/embed/text?model=anything", data={"text": "a"})
        refused = server.post("/embed/text", json={"texts": ["a"], "model": "jina-clip-v2"})
        job = server.post("/api/legacy/tasks/text-embedding/text-embedding-3-small/jobs", json={"text": "a"})

    _assert_second(aliased.json()["embeddings"], aliased, "a")
    # A reply names the model, not the alias.
    assert aliased.json()["model"] == "second"
    _assert_second([slashed.json()["embedding"]], slashed, "a")
    _assert_second([anything.json()["embedding"]], anything, "a")
    _assert_second([job.json()["embedding"]], job, "a")
    assert provenance(known)["model"] == provenance(default)["model"] == "demo"
    assert (refused.status_code, error_code(refused)) == (404, "model_unknown")


@pytest.mark.parametrize("alias", ["demo", "DEMO", "number-two", "second"])
def test_an_alias_that_is_a_models_name_stops_the_start(models: str, alias: str) -> None:
    message = refusal("gateway", MODELS=models, MODEL_ALIASES=f"{alias}=pictures")

    assert f"MODEL_ALIASES gives the name {alias!r} away, which a served model has already." in message


def test_an_alias_of_no_served_model_stops_the_start(models: str) -> None:
    sentence = "MODEL_ALIASES names 'third', which is not in MODEL or MODELS."
    assert sentence in refusal("gateway", MODELS=models, MODEL_ALIASES="clip=third")
