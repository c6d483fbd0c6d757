"""Fixed inputs whose vectors are recorded: a tower that reproduces its canary vector works on this CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clip_embeddings.engine.manifest import ModelError, Tower

if TYPE_CHECKING:
    from PIL import Image

TEXT = "a photo of a birthday cake, 2 candles & a cat"
IMAGE = "waves-v1"

# The least cosine to the recorded vector, by precision. int8 kernels differ a little between CPU generations,
# float32 kernels hardly differ.
MINIMUM = {"fp32": 0.9999, "int8": 0.99}


def canary_image(name: str) -> Image.Image:
    """The image called `name`: 320 x 240 pixels of RGB waves in all colors, the same on every machine."""
    from PIL import Image

    if name != IMAGE:
        raise ValueError(f"unknown canary picture {name!r}")
    x, y = np.meshgrid(np.arange(320), np.arange(240))
    channels = [
        (x * 3 + y) % 256,
        (x + y * 2 + (x // 40) * 64) % 256,
        ((x // 16 + y // 16) % 2) * 200 + y % 56,
    ]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def check(model: str, tower: Tower, vector: np.ndarray) -> None:
    """Compare `vector`, (d,) float32 of length 1, that `tower` gave for its canary with the recorded one.

    Raises:
        ModelError: they differ too much.
    """
    cosine = float(vector @ np.array(tower.canary.vector, np.float32))
    if not cosine >= MINIMUM[tower.precision]:
        raise ModelError(
            f"The {tower.name} tower of {model} does not work on this CPU: its canary has cosine "
            f"{cosine:.4f} to the baked vector, at least {MINIMUM[tower.precision]} is needed. "
            "Bake with --precision fp32."
        )
