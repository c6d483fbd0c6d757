"""Preprocessing equals open_clip's own evaluation transform."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.engine.manifest import Preprocess
from clip_embeddings.engine.preprocess import to_pixels
from clip_embeddings.paths import ROOT
from model_cache.baking.torch_setup import import_open_clip
from tests.support.photographs import photo, photos
from tests.support.preprocessing import CLIP, CONFIGURATIONS, LONGEST, MEAN, STD

MODES = ("RGB", "L", "1", "P", "LA", "RGBA", "CMYK")
SIZES = [
    (1, 1),
    (1, 7),
    (2, 64),
    (64, 64),
    (65, 64),
    (224, 224),
    (223, 225),
    (300, 451),
    (500, 17),
    (90, 1000),
]


def open_clip_pixels(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """What open_clip's evaluation transform makes of `image`: (3, height, width) float32."""
    import_open_clip()
    from open_clip.transform import image_transform

    transform: Callable[[Image.Image], Any] = image_transform(
        preprocess.size,
        is_train=False,
        mean=preprocess.mean,
        std=preprocess.std,
        resize_mode=preprocess.resize_mode,
        interpolation=preprocess.interpolation,
        fill_color=preprocess.fill_color,
    )
    pixels: np.ndarray = transform(image).numpy()
    return pixels


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    """Random pixels in `mode`, the same on every machine."""
    generator = np.random.RandomState(0)
    pixels = generator.randint(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "P":
        image = Image.fromarray(pixels[..., 0])
        image.putpalette(generator.randint(0, 256, 768, dtype=np.uint8).tobytes())
        assert image.mode == "P"
        return image
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(pixels[..., band].copy()) for band in (0, 1)])
    if mode in ("RGBA", "CMYK"):
        return Image.frombytes(mode, size, pixels.tobytes())
    return Image.fromarray(pixels[..., :3].copy()).convert(mode)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_open_clip_for_every_mode_and_size(mode: str, configuration: str) -> None:
    for size in SIZES:
        image = noise(mode, size)
        np.testing.assert_array_equal(
            to_pixels(image, CONFIGURATIONS[configuration]),
            open_clip_pixels(image, CONFIGURATIONS[configuration]),
            err_msg=f"{mode} {size}",
        )


@pytest.mark.parametrize("configuration", ["clip", "not square", "squash", "longest"])
@pytest.mark.parametrize("name", photos())
def test_equals_open_clip_for_photos(name: str, configuration: str) -> None:
    image = photo(name)
    width, height = image.size
    narrow = image.crop((width // 3, 0, width // 2, height))
    for variant in (image, narrow, narrow.quantize(64), image.resize((width // 2, height // 5))):
        np.testing.assert_array_equal(
            to_pixels(variant, CONFIGURATIONS[configuration]),
            open_clip_pixels(variant, CONFIGURATIONS[configuration]),
        )


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_equals_open_clip_for_palettes_with_transparency(transparency: int | bytes) -> None:
    image = photo("coffee").quantize(64)
    image.info["transparency"] = transparency
    if isinstance(transparency, bytes):
        with pytest.warns(UserWarning, match="should be converted to RGBA"):
            expected = open_clip_pixels(image, CLIP)
    else:
        expected = open_clip_pixels(image, CLIP)
    np.testing.assert_array_equal(to_pixels(image, CLIP), expected)


def test_returns_contiguous_float32_of_the_configured_size() -> None:
    pixels = to_pixels(photo("chelsea"), Preprocess((48, 80), MEAN, STD))
    assert pixels.shape == (3, 48, 80)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("configuration", ["squash", "squash bilinear, not square", "longest"])
@pytest.mark.parametrize("size", [(3300, 100), (100, 3300), (6000, 60)])
def test_equals_open_clip_for_extreme_ratios_that_are_not_cropped(
    size: tuple[int, int], configuration: str
) -> None:
    image = noise("RGBA", size)
    np.testing.assert_array_equal(
        to_pixels(image, CONFIGURATIONS[configuration]),
        open_clip_pixels(image, CONFIGURATIONS[configuration]),
    )


@pytest.mark.parametrize("configuration", ["clip", "shortest bilinear", "odd size", "not square"])
@pytest.mark.parametrize("size", [(3300, 100), (100, 3300), (2000, 9), (9, 2000), (9000, 211)])
def test_stays_close_to_open_clip_for_extreme_ratios_that_are_cropped(
    size: tuple[int, int], configuration: str
) -> None:
    smooth = photo("retina").resize(size)
    cases = [(smooth, 2), (smooth.convert("CMYK"), 2), (smooth.convert("LA"), 2)]
    cases += [(noise(mode, size), 15) for mode in ("RGB", "L", "CMYK")]
    for image, steps in cases:
        difference = np.abs(
            to_pixels(image, CONFIGURATIONS[configuration])
            - open_clip_pixels(image, CONFIGURATIONS[configuration])
        )
        assert difference.max() <= steps * 1.001 / (255 * min(STD)), image.mode


@pytest.mark.parametrize("mode", ["1", "P"])
def test_nearly_equals_open_clip_for_extreme_ratios_of_palette_and_one_bit_images(mode: str) -> None:
    for size in [(3300, 100), (100, 3300), (2000, 3)]:
        image = noise(mode, size)
        difference = np.abs(to_pixels(image, CLIP) - open_clip_pixels(image, CLIP))
        assert (difference > 0).mean() < 0.01


def test_accepts_narrow_images_that_open_clip_fails_on() -> None:
    white = Image.new("RGB", (64_000, 1), "white")
    assert to_pixels(white, LONGEST)[0].max() == pytest.approx((1 - MEAN[0]) / STD[0])


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
def test_memory_is_bounded_for_extreme_ratios(size: tuple[int, int]) -> None:
    # Peak memory never falls, so each shape needs a process of its own. open_clip's transform takes 45 GB.
    script = (
        "import resource\n"
        "from PIL import Image\n"
        "from clip_embeddings.engine.preprocess import to_pixels\n"
        "from tests.support.preprocessing import CONFIGURATIONS\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        f"image = Image.new('RGB', {size})\n"
        "before = peak()\n"
        "for configuration in CONFIGURATIONS.values(): to_pixels(image, configuration)\n"
        "print(peak() - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 100  # MiB
