"""Baked models beside the bundled one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from clip_embeddings.config import MODEL_CACHE
from clip_embeddings.engine.manifest import load_manifest

DEMO = MODEL_CACHE / "demo"

# The files of a baked model of two towers.
BAKED = ("manifest.json", "text.onnx", "text.data", "tokenizer.json", "image.onnx", "image.data")


def copy_model(folder: Path, towers: tuple[str, ...] = ("text", "image"), **changes: Any) -> Path:
    """The demo model under another name, with what else differs in its manifest, and with `towers` only."""
    folder.mkdir()
    manifest = json.loads((DEMO / "manifest.json").read_text()) | {"name": folder.name} | changes
    manifest["towers"] = {tower: manifest["towers"][tower] for tower in towers}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for tower in load_manifest(folder).towers.values():
        for file in tower.files:
            shutil.copy(DEMO / file.path, folder / file.path)
    return folder
