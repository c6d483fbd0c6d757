"""Start-up: what stops a function from starting, and what only /ready reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.startup import start
from tests.support.models import copy_demo, edit_manifest, flip_a_byte
from tests.support.serving import Server, error_code, refusal, serving
from tests.support.settings import INVALID_VALUES


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return copy_demo(tmp_path / "my model")


@pytest.mark.parametrize(("name", "values", "allowed"), INVALID_VALUES)
def test_every_invalid_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, values: list[str], allowed: str
) -> None:
    monkeypatch.setenv(name, values[0])

    with pytest.raises(SystemExit) as caught:
        start("embed_text", lambda runtime: runtime)

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


@pytest.mark.parametrize("name", ["text.data", "tokenizer.bpe"])
def test_a_damaged_file_of_the_right_size_makes_the_function_not_ready(
    baked: Path, log: Path, name: str
) -> None:
    flip_a_byte(baked / name)
    with serving("embed_text", log, MODEL=str(baked)) as server:
        ready = server.get("/ready")
        reply = server.post("/", json={"texts": ["a"]})
        plain = [server.post("/encode_text", json={"text": "a"}), server.post("/", data={"text": "a"})]
        health = server.get("/health")

    assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "model": "demo"})
    assert reply.status_code == 500
    message = "Something went wrong here; the log has the details."
    assert reply.json() == {"error": {"code": "internal", "message": message}}
    for other in plain:
        assert (other.status_code, error_code(other)) == (500, "internal")
        assert other.json() == {"error": message}
    assert health.json()["model_loaded"] is False
    assert f"{baked / name} is damaged: its SHA-256 is not the manifest's." in log.read_text()


def test_a_tower_that_does_not_reproduce_its_canary_is_not_ready(baked: Path, log: Path) -> None:
    def negate_canary(manifest: Any) -> None:
        canary = manifest["towers"]["image"]["canary"]
        canary["vector"] = [-value for value in canary["vector"]]

    edit_manifest(baked, negate_canary)
    with serving("embed_mixed", log, MODEL=str(baked)) as server:
        ready = server.get("/ready")

    assert ready.status_code == 503
    assert "The image tower of demo does not work on this CPU" in log.read_text()


def test_serving_the_demo_model_by_default_logs_a_warning(gateway: Server) -> None:
    assert "WARNING MODEL is not set: serving the bundled demo model" in gateway.log.read_text()
