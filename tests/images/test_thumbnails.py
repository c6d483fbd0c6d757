"""Thumbnails: small upright JPEGs without metadata."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageCms

from clip_embeddings.images.thumbnails import MAX_PROFILE_BYTES
from tests.support.hostile_images import save
from tests.support.photographs import photo
from tests.support.pictures import FORMATS, picture
from tests.support.thumbnails import thumbnail_file


def _thumbnail(data: bytes, size: int = 64) -> Image.Image:
    image = Image.open(io.BytesIO(thumbnail_file(data, size)))
    image.load()
    return image


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_becomes_a_small_jpeg(format: str) -> None:
    image = _thumbnail(picture(kind=format))

    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 48))


def test_a_small_image_is_not_enlarged() -> None:
    assert _thumbnail(save(photo("chelsea").resize((30, 20)), "PNG")).size == (30, 20)


def test_metadata_is_dropped_and_the_orientation_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"

    image = _thumbnail(save(photo("chelsea").resize((80, 40)), "JPEG", exif=exif, comment=b"a comment"))

    assert image.size == (32, 64)
    assert dict(image.getexif()) == {}
    assert "comment" not in image.info


def test_transparent_pixels_become_white() -> None:
    image = _thumbnail(save(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG"))

    assert image.convert("L").getextrema() == (255, 255)


@pytest.mark.parametrize(("size", "kept"), [(0, True), (MAX_PROFILE_BYTES, False)])
def test_a_color_profile_is_kept_if_it_is_small(size: int, kept: bool) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(size)

    image = _thumbnail(save(photo("chelsea"), "JPEG", icc_profile=profile))

    assert image.info.get("icc_profile") == (profile if kept else None)
