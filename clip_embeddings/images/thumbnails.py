"""Turns an image of any accepted format into a small JPEG that every browser can show."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

# JPEG quality on Pillow's scale of 0 to 95.
QUALITY = 82
# Pixels of the longer side of a small picture, such as an emoji, and its quality.
SMALL, SMALL_QUALITY = 128, 95
# Largest color profile, in bytes, that is copied. Display P3, which phones write, takes about 550.
MAX_PROFILE_BYTES = 4096


# Pixels that are converted at a time.
_STRIP_PIXELS = 2**20


def thumbnail(image: Image.Image, size: int) -> bytes:
    """Make a JPEG of `image` whose longer side has at most `size` pixels: on white, without metadata."""
    profile = image.info.get("icc_profile", b"") if image.mode == "RGB" else b""
    image = _reduced(image, size)
    image.thumbnail((size, size), Image.Resampling.BICUBIC)
    # A new image carries over none of the metadata (EXIF with a location, comments).
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode in ("LA", "RGBA") else None)
    file = io.BytesIO()
    options: dict[str, Any] = {"icc_profile": profile} if 0 < len(profile) <= MAX_PROFILE_BYTES else {}
    if max(image.size) <= SMALL:
        # Shown pixel by pixel: it would be seen that colors have half the resolution.
        options |= {"quality": SMALL_QUALITY, "subsampling": 0}
    canvas.save(file, "JPEG", **{"quality": QUALITY, **options})
    return file.getvalue()


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """`image` with pixels that can be averaged, a whole number of times smaller but at least twice `size`.

    It is made from strips, because converting the whole image would take memory for another one.
    """
    # In modes 1 and P Pillow resizes by picking the nearest pixels.
    mode = image.mode
    if mode in ("1", "P"):
        mode = "RGBA" if "transparency" in image.info else "RGB"
    factor = max(1, max(image.size) // (2 * size))
    if mode == image.mode and factor == 1:
        return image
    reduced = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, _STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert(mode)
        reduced.paste(strip.reduce(factor), (0, top // factor))
    return reduced
