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
    "camera": ("skimage", "data/camera.png"),  # gray 512 x 512
    "chelsea": ("skimage", "data/chelsea.png"),  # RGB 451 x 300
    "coffee": ("skimage", "data/coffee.png"),  # RGB 600 x 400
    "coins": ("skimage", "data/coins.png"),  # gray 384 x 303
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
    """The files, by name. Does not import the libraries that contain them."""
    return {name: (_package(package) / path).read_bytes() for name, (package, path) in _FILES.items()}


def photo(name: str) -> Image.Image:
    """The photo `name`, decoded, in its own mode."""
    image = Image.open(io.BytesIO(photos()[name]))
    image.load()
    return image


@cache
def detailed_12mp_jpeg() -> bytes:
    """A JPEG of 4032 x 3024 pixels, quality 90, with detail in every pixel, like a photo from a phone.

    An enlarged photo provides large shapes, the repeated fine texture of a second one provides edges, and
    noise stands for that of a sensor. The noise is numpy's frozen MT19937 stream.
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
    """`count` different crops of real photos, in several sizes and formats, by file name."""
    files = {}
    names = [name for name in photos() if name not in ("hubble", "retina")]
    for number in range(count):
        image = photo(names[number % len(names)]).convert("RGB")
        offset = number // len(names)
        image = image.crop((offset, offset // 2, image.width - offset % 7, image.height - offset % 5))
        if number % 3:
            image.thumbnail((400 - number % 50, 400))
        file = io.BytesIO()
        format = ("JPEG", "PNG", "WebP", "JPEG")[number % 4]
        image.save(file, format, **({"compress_level": 1} if format == "PNG" else {"quality": 80}))
        files[f"{number % 10}/{number:04}.{format.lower()}"] = file.getvalue()
    return files


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
