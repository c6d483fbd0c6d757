"""The fixed captions and images on which a baked tower is compared with PyTorch."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from PIL import Image

SUBJECTS = (
    "a cat",
    "two dogs",
    "a red car",
    "a birthday cake",
    "an old lighthouse",
    "my grandmother",
    "a bowl of ramen",
    "the Eiffel Tower",
    "a football match",
    "children at the beach",
    "a steam locomotive",
    "a snowy mountain",
)
SETTINGS = (
    "",
    "at night",
    "in the rain",
    "on a wooden table",
    "seen from above",
    "in black and white",
    "with flowers",
    "in front of a blue wall",
    "on the way to school early in the morning",
    "painted in oil",
    "at 50% off!",
    "#nofilter",
    "in 1987",
    "made of LEGO bricks",
    "that looks like a toy",
    "behind a fence, slightly blurred",
)
UNUSUAL = (
    "",
    " ",
    "?",
    "é",
    "😀 🎂 👩‍👩‍👧",
    "R&amp;D &lt;b&gt;",
    "שלום עולם",
    "写真の中の猫",
    "naïve café façade",
    "it's we'll they've",
    "<|endoftext|>",
    "word " * 100,
)
IMAGE_COUNT = 50


def captions() -> list[str]:
    """204 texts: short and long, in several scripts, an empty one, and one longer than any context length."""
    pairs = [f"{subject} {setting}".strip() for subject, setting in product(SUBJECTS, SETTINGS)]
    return [*pairs, *UNUSUAL]


@cache
def images() -> tuple[Image.Image, ...]:
    """50 RGB images of several sizes: smooth noise with the spectrum of photographs, with shapes on top."""
    rng = np.random.default_rng(20240607)
    sizes = ((64, 64), (320, 240), (224, 224), (480, 640), (333, 217), (900, 160), (97, 401))
    return tuple(_image(rng, *sizes[index % len(sizes)]) for index in range(IMAGE_COUNT))


def _image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    channels = np.stack([_smooth_noise(rng, height, width) for _ in range(3)], axis=-1)
    gray = channels.mean(axis=-1, keepdims=True)
    pixels = 0.6 * gray + 0.4 * channels + rng.uniform(-0.2, 0.2, 3)
    for _ in range(rng.integers(1, 5)):
        color = rng.uniform(0, 1, 3)
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(0.05, 0.4) * width, rng.uniform(0.05, 0.4) * height
        if rng.random() < 0.5:
            inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        else:
            inside = (abs(x - cx) < rx) & (abs(y - cy) < ry)
        pixels[inside] = 0.3 * pixels[inside] + 0.7 * color
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def _smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    # The amplitude is inversely proportional to the frequency, as in natural images.
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / max(height, width)), s=(height, width))
    # Most values are between 0 and 1.
    result: np.ndarray = (noise - noise.mean()) / (4 * noise.std()) + 0.5
    return result.astype(np.float32)
