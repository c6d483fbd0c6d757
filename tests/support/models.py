"""Copies of the bundled model, whole, changed or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_embeddings.engine.manifest import load_manifest
from clip_embeddings.paths import MODEL_CACHE

DEMO = MODEL_CACHE / "demo"

# The files of a baked model with two towers.
MODEL_FILES = ("manifest.json", "text.onnx", "text.data", "tokenizer.bpe", "image.onnx", "image.data")


def copy_demo(folder: Path) -> Path:
    """Copy the bundled model, unchanged, into the new folder `folder`."""
    folder.mkdir()
    for name in MODEL_FILES:
        shutil.copy(DEMO / name, folder / name)
    return folder


def copy_model(folder: Path, towers: tuple[str, ...] = ("text", "image"), **changes: Any) -> Path:
    """Copy `towers` of the bundled model, under the folder's name and with `changes` to the manifest."""
    folder.mkdir()
    manifest = json.loads((DEMO / "manifest.json").read_text()) | {"name": folder.name} | changes
    manifest["towers"] = {tower: manifest["towers"][tower] for tower in towers}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for tower in load_manifest(folder).towers.values():
        for file in tower.files:
            shutil.copy(DEMO / file.path, folder / file.path)
    return folder


def edit_manifest(folder: Path, edit: Callable[[Any], object]) -> None:
    """Let `edit` change the manifest of the model in `folder`, given as JSON values."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def flip_a_byte(path: Path) -> None:
    """Damage the file at `path` without changing its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
