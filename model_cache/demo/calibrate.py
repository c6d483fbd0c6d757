"""Fits the scale of the demo model's probabilities: `python -m model_cache.demo.calibrate`.

A checkpoint has its own scale, which `bake` stores. The checkpoint that the bundled artifact was baked from
is gone, and its scale with it. So the scale is fitted to the artifact itself, as temperature calibration does
(Guo et al. 2017, arxiv.org/abs/1706.04599): it is the one under which the right names of all bundled emoji
are most likely, each picture on white among all names, in the template that `/classify` uses by default.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_embeddings.engine.model import load_model, normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.engine.zero_shot import prompts
from clip_embeddings.protocols.classify import TEMPLATE
from model_cache.demo.emoji_sheet import load_emoji_sheet

_FOLDER = Path(__file__).parent
# The training clamps the scale here, as CLIP's did.
LARGEST_SCALE = 100.0


def fit_scale(cosines: np.ndarray) -> float:
    """The scale with the highest mean log probability of the diagonal, rounded to 0.1; at most LARGEST_SCALE.

    Args:
        cosines: (n, n), row i a picture, and its own text in column i.
    """
    low, high = 0.0, LARGEST_SCALE
    # The log probability is concave in the scale: its slope changes its sign once.
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(cosines, middle) > 0 else (low, middle)
    return round((low + high) / 2, 1)


def _slope(cosines: np.ndarray, scale: float) -> float:
    """How the mean log probability of the diagonal changes with the scale."""
    logits = scale * cosines.astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (weights * cosines).sum(axis=1) / weights.sum(axis=1)
    return float((np.diag(cosines) - expected).mean())


def emoji_cosines(folder: Path = _FOLDER) -> np.ndarray:
    """The cosines of all emoji and their names in TEMPLATE, by the model in `folder`: (n, n) float32."""
    model = load_model(folder, ("text", "image"), scheduler=Scheduler(2, 64))
    emoji = load_emoji_sheet()
    tower = model.image.get()
    pictures = normalize_rows(tower.embed([tower.pixels(one.image) for one in emoji]))
    texts = [prompt for one in emoji for prompt in prompts(one.name, [TEMPLATE])]
    cosines: np.ndarray = pictures @ normalize_rows(model.text.get().embed(texts).vectors).T
    return cosines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write the scale into the manifest; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.demo.calibrate",
        description="Fit the scale of probabilities to the emoji, and write it into manifest.json.",
    )
    parser.add_argument("--model", type=Path, default=_FOLDER, help="folder of the baked demo model")
    folder = parser.parse_args(arguments).model
    scale = fit_scale(emoji_cosines(folder))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"logit_scale": scale}
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"logit_scale {scale} in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
