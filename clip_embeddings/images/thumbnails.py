"""Turns an image of any accepted format into a small JPEG that every browser can show."""

from __future__ import annotations

import io

from PIL import Image

from clip_embeddings.config import ImageSettings
from clip_embeddings.images.decoding import decode_image

# JPEG quality on Pillow's scale of 0 to 95.
QUALITY = 82
# Largest color profile, in bytes, that is copied. Display P3, which phones write, takes about 550.
MAX_PROFILE_BYTES = 4096


def thumbnail(data: bytes, size: int, max_pixels: int) -> bytes:
    """Make a JPEG of `data` whose longer side has at most `size` pixels: upright, on white, without metadata.

    Raises:
        ApiError: as `decode_image`.
    """
    # A JPEG is decoded at reduced size as long as both sides keep twice the target.
    image = decode_image(data, settings=ImageSettings(), max_pixels=max_pixels, target=(size + 1) // 2)
    profile = image.info.get("icc_profile", b"") if image.mode == "RGB" else b""
    if image.mode in ("1", "P"):
        # In these modes Pillow resizes by picking the nearest pixels.
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    # A new image carries over none of the metadata (EXIF with a location, comments).
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode in ("LA", "RGBA") else None)
    file = io.BytesIO()
    options = {"icc_profile": profile} if 0 < len(profile) <= MAX_PROFILE_BYTES else {}
    canvas.save(file, "JPEG", quality=QUALITY, **options)
    return file.getvalue()
