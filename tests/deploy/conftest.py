"""A copy of the checkout, for tests that change it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.serving import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what deploy.sh needs of this checkout, to be changed."""
    folder = tmp_path / "checkout"
    compiled = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in (
        "clip_embeddings",
        "functions",
        "deploy",
        "requirements",
        "model_cache/baking",
        "model_cache/demo",
    ):
        shutil.copytree(ROOT / name, folder / name, ignore=compiled)
    for path in (*ROOT.glob("model_cache/*.py"), ROOT / "deploy.sh", ROOT / "requirements.txt"):
        shutil.copy(path, folder / path.relative_to(ROOT))
    return folder
