"""Thumbnails as the search makes them."""

from __future__ import annotations

from clip_embeddings.config import ImageSettings
from clip_embeddings.images.decoding import decode_image
from clip_embeddings.images.thumbnails import thumbnail


def thumbnail_file(data: bytes, size: int) -> bytes:
    """The thumbnail of an image file."""
    return thumbnail(
        decode_image(data, settings=ImageSettings(), max_pixels=50_000_000, target=(size + 1) // 2), size
    )
