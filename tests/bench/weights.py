"""Random ViT-B-32 weights and the models baked from them, kept under build/bench/ for the next run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from clip_embeddings.engine.manifest import load_manifest
from clip_embeddings.functions import find_function
from deploy.sizing import memory_setting
from tests.support.serving import ROOT

BUILD = ROOT / "build" / "bench"
ARCHITECTURE = "ViT-B-32"
PRECISIONS = ("int8", "fp32")
# The code that determines the baked files, together with the weights.
SOURCES = (
    "model_cache/*.py",
    "model_cache/baking/**/*.py",
    "model_cache/requirements.txt",
    "clip_embeddings/engine/*.py",
    "requirements.txt",
)


def checkpoint() -> Path:
    """An open_clip checkpoint of random weights, the same on every machine."""
    path = BUILD / "random.pt"
    if not path.exists():
        print("making random weights ...", file=sys.stderr)
        import torch

        from model_cache.baking.torch_setup import import_open_clip

        open_clip = import_open_clip()
        torch.manual_seed(0)
        unfinished = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(open_clip.create_model(ARCHITECTURE, load_weights=False).state_dict(), unfinished)
        unfinished.rename(path)
    return path


def baked(precision: str) -> Path:
    """The folder of the model baked from `checkpoint()`; baked again when the code of bake has changed."""
    folder = BUILD / f"{ARCHITECTURE.lower()}-{precision}"
    stamp = folder.with_suffix(".stamp")
    current = state()
    if not stamp.exists() or stamp.read_text() != current:
        print(f"baking {folder.name} ...", file=sys.stderr)
        options = ["--checkpoint", str(checkpoint()), "--precision", precision, "--out", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "model_cache.bake", ARCHITECTURE, *options],
            cwd=ROOT,
            stdout=sys.stderr,
            check=True,
        )
        stamp.write_text(current)
    return folder


def deployed_memory(function: str, folder: Path, cpus: int) -> str:
    """The --memory setting that deploy.sh chooses for `function` with the model `folder`: 512Mi."""
    described = find_function(function)
    manifest = load_manifest(folder, described.towers)
    sizes = [file.bytes for tower in described.towers for file in manifest.towers[tower].files]
    return memory_setting(described, sizes, cpus)


def mebibytes(setting: str) -> float:
    """A --memory setting as a number: 1Gi is 1024."""
    return float(setting[:-2]) * (1024 if setting.endswith("Gi") else 1)


def state() -> str:
    """A digest of the code that determines the baked files."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
