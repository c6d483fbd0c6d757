"""ONNX Runtime sends nothing to anybody, and has no thread that a fork would lose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import ROOT


@pytest.mark.parametrize(
    "imported",
    ["functions.embed_text", "clip_embeddings.engine.model", "model_cache.baking.onnx_export"],
)
def test_no_telemetry_is_started(tmp_path: Path, imported: str) -> None:
    """An identifier of the device would be written at once, into the folder for caches."""
    # ONNX Runtime sends nothing where it finds that it is tested.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "ORT_"))}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = f"import {imported}, onnxruntime, time; time.sleep(0.3)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []


def test_a_session_survives_a_fork(tmp_path: Path) -> None:
    """What is open when gunicorn forks has no threads that a fork would lose."""
    code = (
        "import os, time, functions.embed_text as function\n"
        "function.runtime.default_model().text.get()\n"
        "time.sleep(0.3)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "1\n"
