"""Real photographs for tests, from the wheels of scikit-image and scikit-learn."""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),  # RGB 512 x 512
    "camera": ("skimage", "data/camera.png"),  # grey 512 x 512
    "chelsea": ("skimage", "data/chelsea.png"),  # RGB 451 x 300
    "coffee": ("skimage", "data/coffee.png"),  # RGB 600 x 400
    "coins": ("skimage", "data/coins.png"),  # grey 384 x 303
    "motorcycle": ("skimage", "data/motorcycle_left.png"),  # RGB 741 x 500
    "logo": ("skimage", "data/logo.png"),  # RGBA 500 x 500, with transparency
    "rocket": ("skimage", "data/rocket.jpg"),  # RGB 640 x 427
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),  # RGB 1000 x 872
    "retina": ("skimage", "data/retina.jpg"),  # RGB 1411 x 1411
    "china": ("sklearn", "datasets/images/china.jpg"),  # RGB 640 x 427
    "flower": ("sklearn", "datasets/images/flower.jpg"),  # RGB 640 x 427
}


@cache
def photos() -> dict[str, bytes]:
    """The files, by name. Neither library is imported."""
    return {name: (_package(package) / path).read_bytes() for name, (package, path) in _FILES.items()}


def photo(name: str) -> Image.Image:
    """One of them, decoded in its own mode."""
    image = Image.open(io.BytesIO(photos()[name]))
    image.load()
    return image


@cache
def detailed_12mp_jpeg() -> bytes:
    """A JPEG of 4032 x 3024 pixels, quality 90, with detail down to the pixel, as a phone makes it.

    One photo enlarged gives the large shapes, the fine texture of a second one repeated at full size
    gives edges, and noise gives what a sensor adds. The noise is numpy's frozen MT19937 stream.
    """
    size = (4032, 3024)
    shapes = photo("coffee").crop((33, 0, 566, 400)).resize(size, Image.Resampling.BICUBIC)
    small = photo("china").convert("L")
    blurred = small.reduce(8).resize(small.size, Image.Resampling.BICUBIC)
    texture = np.asarray(small, np.int16) - np.asarray(blurred, np.int16)
    repeats = (-(-size[1] // texture.shape[0]), -(-size[0] // texture.shape[1]))
    texture = np.tile(texture, repeats)[: size[1], : size[0], None] // 2
    noise = np.random.RandomState(12).randint(-8, 9, (size[1], size[0], 3), dtype=np.int16)
    pixels = np.clip(np.asarray(shapes, np.int16) + texture + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@cache
def crops(count: int) -> dict[str, bytes]:
    """Crops and re-encodings of real photos, of several sizes and formats, no two alike; by name."""
    found = {}
    names = [name for name in photos() if name not in ("hubble", "retina")]
    for number in range(count):
        image = photo(names[number % len(names)]).convert("RGB")
        at = number // len(names)
        image = image.crop((at, at // 2, image.width - at % 7, image.height - at % 5))
        if number % 3:
            image.thumbnail((400 - number % 50, 400))
        file = io.BytesIO()
        kind = ("JPEG", "PNG", "WebP", "JPEG")[number % 4]
        image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {"quality": 80}))
        found[f"{number % 10}/{number:04}.{kind.lower()}"] = file.getvalue()
    return found


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
