"""Resizing large pictures with transparency channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.engine import resize as module
from clip_embeddings.engine.resize import resize

SIZES = [(300, 200), (1, 1), (640, 30), (30, 640), (224, 500), (640, 1300)]


@pytest.mark.parametrize("strip", [2**20, 997])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_equals_pillow_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, mode: str, resample: Image.Resampling, strip: int
) -> None:
    monkeypatch.setattr(module, "LARGE_PIXELS", 0)
    monkeypatch.setattr(module, "_STRIP_PIXELS", strip)
    generator = np.random.RandomState(0)
    for width, height in SIZES:
        pixels = generator.randint(0, 256, (height, width, 4)).astype(np.uint8)
        image = Image.fromarray(pixels).convert(mode)
        for size in ((224, 224), (336, 224), (width, 50), (50, height), (width, height)):
            assert resize(image, size, resample).tobytes() == image.resize(size, resample).tobytes()
