"""Start-up: what stops a function from starting, and what only /ready reports."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.startup import starting
from tests.support.models import copy_demo, edit_manifest, flip_a_byte
from tests.support.pictures import in_base64, picture
from tests.support.serving import Server, error_code, refusal, serving, worker
from tests.support.settings import INVALID_VALUES
from tests.support.waiting import eventually


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return copy_demo(tmp_path / "my model")


@pytest.mark.parametrize(("name", "values", "allowed"), INVALID_VALUES)
def test_every_invalid_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, values: list[str], allowed: str
) -> None:
    monkeypatch.setenv(name, values[0])

    with pytest.raises(SystemExit) as caught, starting("embed_text"):
        pass

    # SystemExit with a text: the interpreter prints it and exits with status 1.
    assert str(caught.value).startswith(f"embed_text cannot start: {name}={values[0]!r} is not valid: use ")
    assert allowed in str(caught.value)


@pytest.mark.parametrize("target", ["embed_text", "embed_image", "embed_mixed", "gateway"])
def test_an_invalid_setting_stops_the_process(target: str) -> None:
    assert "MAX_ITEMS='many' is not valid: use a whole number" in refusal(target, MAX_ITEMS="many")


def test_a_model_that_was_never_baked_stops_the_start() -> None:
    message = refusal(MODEL="ViT-B-32/laion400m_e32")

    assert "vit-b-32-laion400m-e32: manifest.json is missing" in message
    assert "python -m model_cache.bake" in message


def test_a_folder_without_a_model_stops_the_start(tmp_path: Path) -> None:
    assert f"No baked model at {tmp_path}:" in refusal(MODEL=str(tmp_path))


def test_an_unreadable_manifest_stops_the_start(baked: Path) -> None:
    (baked / "manifest.json").write_text("not JSON")

    message = refusal(MODEL=str(baked))
    assert "manifest.json cannot be read" in message
    assert "Bake the model again." in message


def test_a_missing_file_stops_the_start(baked: Path) -> None:
    (baked / "text.onnx").unlink()

    assert "text.onnx is missing. Bake the model again or restore the file." in refusal(MODEL=str(baked))


def test_a_truncated_file_stops_the_start(baked: Path) -> None:
    (baked / "tokenizer.bpe").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    message = refusal(MODEL=str(baked))
    assert "tokenizer.bpe has 43 bytes, its manifest says " in message
    assert "Git LFS" in message


def test_a_missing_tower_stops_a_function_that_needs_it(baked: Path) -> None:
    edit_manifest(baked, lambda manifest: manifest["towers"].pop("image"))

    assert "has no image tower, which this function needs" in refusal("embed_mixed", MODEL=str(baked))


def test_a_function_needs_no_files_of_the_other_tower(baked: Path, log: Path) -> None:
    (baked / "image.onnx").unlink()
    with serving("embed_text", log, MODEL=str(baked)) as server:
        assert server.get("/ready").status_code == 200
    assert "MODEL is not set" not in log.read_text()


def assert_unusable(server: Server) -> None:
    """Every form of a request for vectors gets 503, and so does /ready; the process lives."""
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "model": "my-model"})
    reply = server.post("/", json={"texts": ["a"]})
    message = "The model of this deployment cannot be used; the log has the reason."
    assert reply.status_code == 503
    assert reply.json() == {"error": {"code": "model_unavailable", "message": message}}
    for other in (server.post("/encode_text", json={"text": "a"}), server.post("/", data={"text": "a"})):
        assert (other.status_code, error_code(other)) == (503, "model_unavailable")
        assert other.json() == {"error": message}
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["text.data", "tokenizer.bpe"])
def test_a_damaged_file_is_found_before_the_first_vector_on_request(
    baked: Path, log: Path, name: str
) -> None:
    flip_a_byte(baked / name)
    with serving("embed_text", log, MODEL=str(baked), VERIFY_BEFORE_SERVING="true") as server:
        assert_unusable(server)
        assert server.get("/health").json()["model_loaded"] is False
    assert f"{baked / name} is damaged: its SHA-256 is not the manifest's." in log.read_text()


@pytest.mark.parametrize("target", ["embed_text", "gateway"])
def test_a_damaged_file_is_found_beside_serving(baked: Path, log: Path, target: str) -> None:
    flip_a_byte(baked / "text.data")
    with serving(target, log, MODEL=str(baked)) as server:
        first = server.post("/embed/text", json={"texts": ["a"]})
        eventually(lambda: "The text tower of my-model serves no longer" in log.read_text())
        ready = server.get("/ready")
        later = server.post("/embed/text", json={"texts": ["a"]})
        if target == "gateway":
            assert server.post("/embed/image", files={"file": picture()}).status_code == 200

    assert first.status_code == 200
    assert (ready.status_code, later.status_code) == (503, 503)
    assert error_code(later) == "model_unavailable"
    assert f"{baked / 'text.data'} is damaged: its SHA-256 is not the manifest's." in log.read_text()


def test_a_graph_that_cannot_be_opened_is_reported_as_damaged(baked: Path, log: Path) -> None:
    graph = baked / "text.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with serving("embed_text", log, MODEL=str(baked)) as server:
        assert_unusable(server)
    assert f"{graph} is damaged: its SHA-256 is not the manifest's." in log.read_text()


def test_a_tower_that_does_not_reproduce_its_canary_gives_no_vector(baked: Path, log: Path) -> None:
    def negate_canary(manifest: Any) -> None:
        canary = manifest["towers"]["image"]["canary"]
        canary["vector"] = [-value for value in canary["vector"]]

    edit_manifest(baked, negate_canary)
    with serving("embed_mixed", log, MODEL=str(baked)) as server:
        ready = server.get("/ready")
        picture_reply = server.post("/embed/mixed", json={"images": [in_base64(picture())]})
        text_reply = server.post("/embed/mixed", json={"texts": ["a"]})

    assert (ready.status_code, picture_reply.status_code, text_reply.status_code) == (503, 503, 200)
    assert "The image tower of my-model does not work on this CPU" in log.read_text()


@pytest.mark.parametrize(
    ("target", "opened"),
    [("embed_text", {"text"}), ("embed_image", {"image"}), ("embed_mixed", {"text", "image"})],
)
def test_a_function_opens_its_model_before_the_first_request(
    log: Path, target: str, opened: set[str]
) -> None:
    with serving(target, log) as server:
        eventually(lambda: server.get("/health").json()["model_loaded"])
        eventually(
            lambda: opened == {name for name in ("text", "image") if f"{name}.onnx runs" in log.read_text()}
        )


def test_the_gateway_opens_nothing_until_it_is_asked(log: Path) -> None:
    with serving("gateway", log) as server:
        assert server.get("/health").json()["model_loaded"] is False
        assert server.post("/embed/text", json={"texts": ["a"]}).status_code == 200
        assert server.get("/health").json()["model_loaded"] is True
    assert "image.onnx" not in log.read_text()


def test_a_new_serving_process_after_one_that_died_serves(log: Path) -> None:
    """gunicorn's master forks another one, which has the sessions of the first and runs the canaries."""
    with serving("embed_mixed", log) as server:
        body = {"texts": ["a cat"], "images": [in_base64(picture())]}
        before = server.post("/embed/mixed", json=body).json()
        first = worker(server)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: "was sent SIGKILL" in log.read_text())
        again = server.post("/embed/mixed", json=body).json()
        assert worker(server) != first

    assert again == before


def test_serving_the_demo_model_by_default_logs_a_warning(gateway: Server) -> None:
    assert "WARNING MODEL is not set: serving the bundled demo model" in gateway.log.read_text()
