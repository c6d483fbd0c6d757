"""Where the repository and its baked models are, and which model is the default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL_CACHE = ROOT / "model_cache"

DEMO = "demo"


def default_model(env: Mapping[str, str]) -> str:
    """The model of requests that name none: MODEL, else the first of MODELS, else the only baked model of
    model_cache/, which a staged folder has, else the bundled one."""
    first = env.get("MODELS", "").split(",")[0]
    return env.get("MODEL", "").strip() or first.strip() or _only_model()


def _only_model() -> str:
    folders = [path.parent.name for path in MODEL_CACHE.glob("*/manifest.json")]
    return folders[0] if len(folders) == 1 else DEMO
