"""Turns an image into the model's input tensor, bit for bit as open_clip's evaluation transform does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil

import numpy as np
from PIL import Image

from clip_embeddings.engine.manifest import Preprocess
from clip_embeddings.engine.resize import resize

# Ratio of the sides above which only the part that stays after the crop is resized. open_clip would resize
# the whole image, to a size without bound (20 x 10,000 would grow to 224 x 112,000), and crop most of it off.
_EXTREME_RATIO = 32


def to_pixels(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Resize, crop or pad, convert to RGB, normalize.

    Equal to `open_clip.transform.image_transform(..., is_train=False)` bit for bit, with one exception that
    bounds memory: with `shortest`, if one side is more than 32 times the other, only the part of the image
    that stays after the crop is resized. Photos then differ by 2/255 at most. Noise, where neighboring pixels
    are unrelated, can differ by 15/255, because Pillow clips values between its two passes. Nearly
    transparent pixels can differ by any amount, because any color may be hidden in them. (`longest` also
    accepts images so narrow that open_clip fails.)

    Args:
        image: of mode 1, L, LA, P, RGB, RGBA or CMYK.

    Returns:
        (3, height, width) float32.
    """
    height, width = preprocess.size
    resample = (
        Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
    )
    if preprocess.resize_mode == "squash":
        image = resize(image, (width, height), resample)
    elif preprocess.resize_mode == "longest":
        image = resize(image, _keep_ratio(image.size, (width, height), max), resample)
        image = _center(image, (width, height), preprocess.fill_color)
    else:
        if width == height:
            resized = _shortest(image.size, preprocess.resize or width)
        else:
            # open_clip does not pass its interpolation on to this resize.
            resized, resample = _keep_ratio(image.size, (width, height), min), Image.Resampling.BICUBIC
        if max(image.size) > _EXTREME_RATIO * min(image.size):
            image = _resize_center(image, resized, (width, height), resample)
        else:
            image = _center(resize(image, resized, resample), (width, height), 0)
    # open_clip drops transparency too. Left in place, it would only cause a warning.
    image.info.pop("transparency", None)
    return _normalize(image.convert("RGB"), preprocess)


def _shortest(size: tuple[int, int], target: int) -> tuple[int, int]:
    # torchvision.transforms.functional._compute_resized_output_size
    width, height = size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _keep_ratio(
    size: tuple[int, int], target: tuple[int, int], side: Callable[[float, float], float]
) -> tuple[int, int]:
    # open_clip.transform.ResizeKeepRatio, which fails when the short side becomes 0.
    ratio = side(size[1] / target[1], size[0] / target[0])
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _center(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Crop or pad to `size` (width, height) around the center: open_clip.transform.center_crop_or_pad."""
    padded = max(size[0], image.width), max(size[1], image.height)
    if padded != image.size:
        bands = len(image.getbands())
        canvas = Image.new(image.mode, padded, fill if bands == 1 else (fill,) * bands)
        canvas.paste(image, ((padded[0] - image.width) // 2, (padded[1] - image.height) // 2))
        if image.mode == "P":
            canvas.putpalette(image.getpalette() or [])
        image = canvas
    left, top = round((image.width - size[0]) / 2), round((image.height - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def _resize_center(
    image: Image.Image, resized: tuple[int, int], size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """The central `size` of `image` after a resize to `resized`, computed from the pixels it needs."""
    window, box = [], []
    for source, whole, part in zip(image.size, resized, size, strict=True):
        scale = source / whole
        start = round((whole - part) / 2) * scale
        stop = start + part * scale
        # A bicubic kernel extends two pixels to each side, in pixels of the coarser of the two images.
        margin = 2 * max(scale, 1.0) + 1
        first, last = max(0, int(start - margin)), min(source, ceil(stop + margin))
        window.append((first, last))
        # Relative to the window, so that they are small: Pillow stores the box in single precision.
        box.append((start - first, min(stop - first, last - first)))
    (left, right), (top, bottom) = window
    (x0, x1), (y0, y1) = box
    return image.crop((left, top, right, bottom)).resize(size, resample, box=(x0, y0, x1, y1))


def _normalize(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    pixels = np.asarray(image)
    tensor = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, table in enumerate(_tables(preprocess.mean, preprocess.std)):
        np.take(table, pixels[..., channel], out=tensor[channel], mode="clip")
    return tensor


@lru_cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """The normalized value of each of the 256 byte values, per channel: (3, 256) float32."""
    # torchvision's order of operations, all in float32: to_tensor divides by 255, then normalize.
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    means, stds = np.asarray(mean, np.float32)[:, None], np.asarray(std, np.float32)[:, None]
    tables: np.ndarray = (scaled - means) / stds
    return tables
