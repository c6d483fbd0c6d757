"""Fixed inputs whose vectors are known: a tower that reproduces its canary works on this CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

TEXT = "a photo of a birthday cake, 2 candles & a cat"
IMAGE = "waves-v1"

# Cosine to the baked vector. int8 kernels differ a little between CPU generations, float32 ones hardly.
MINIMUM = {"fp32": 0.9999, "int8": 0.99}


def canary_image(name: str) -> Image.Image:
    """The picture that `name` stands for: 320x240 RGB waves of all colours, the same on every machine."""
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
