"""A picture of any accepted format to a small JPEG that every browser shows."""

from __future__ import annotations

import io

from PIL import Image

from clip_embeddings.config import ImageSettings
from clip_embeddings.images.decoding import decode_image

QUALITY = 82
# Of a colour profile that is passed on: Display P3, which phones write, takes about 550 bytes.
PROFILE_BYTES = 4096


def thumbnail(data: bytes, size: int, max_pixels: int) -> bytes:
    """A JPEG of `data` whose longer side has at most `size` pixels: upright, on white, without metadata.

    Raises:
        CallerError: as `decode_image`.
    """
    # A JPEG is decoded at reduced size as long as its sides keep twice the target.
    image = decode_image(data, settings=ImageSettings(), max_pixels=max_pixels, target=(size + 1) // 2)
    profile = image.info.get("icc_profile", b"") if image.mode == "RGB" else b""
    if image.mode in ("1", "P"):
        # Of these Pillow only picks pixels when it resizes.
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    # A new picture: what the old one carried (EXIF with a place, comments) stays behind.
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode in ("LA", "RGBA") else None)
    file = io.BytesIO()
    known = {"icc_profile": profile} if 0 < len(profile) <= PROFILE_BYTES else {}
    canvas.save(file, "JPEG", quality=QUALITY, **known)
    return file.getvalue()
