"""The accepted image formats: how each is recognized, and which parser decodes it."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip_embeddings.errors import ApiError

if TYPE_CHECKING:
    from PIL import ImageFile

Parser = Callable[[io.BytesIO], "ImageFile.ImageFile"]

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC"

# One parser per format, imported when the first image of that format arrives. Image.open() would import all
# of Pillow's forty or so plugins to find WebP. It would also look for further frames (MPO) in the JPEGs of
# phones, with Pillow's TIFF code, although only the first frame is used.
_PARSERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}

# The content type of each format: https://www.iana.org/assignments/media-types
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
}

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)

# Brands of the `ftyp` box. AVIF: AV1-AVIF 1.1 section 6. HEIF with HEVC: ISO/IEC 23008-12 annex B;
# `mif1` and `msf1` name the container only, so AVIF brands are checked first.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Formats often sent by mistake, recognized only to name them in the error: (start in lower case, name).
_NOT_IMAGES = (
    (b"%pdf-", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"ii*\0", "a TIFF"),
    (b"mm\0*", "a TIFF"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


def detect_format(data: bytes) -> str:
    """The name of the format of `data`. Raises ApiError 422 `image_unsupported`."""
    for signature, format in _SIGNATURES:
        if data.startswith(signature):
            return format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    description = "empty" if not data else "a video" if brands else "not an image of a known format"
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        description = "an SVG drawing"
    description = next((name for start, name in _NOT_IMAGES if text.startswith(start)), description)
    raise ApiError(422, "image_unsupported", f"The data is {description}; send {ACCEPTED}.")


def find_parser(format: str) -> Parser:
    """The class of Pillow, or of a plugin of it, that reads `format`."""
    module, name = _PARSERS[format]
    imported: Any = import_module(module)
    if format == "AVIF":
        # Images are decoded side by side, one on each CPU. More threads for one of them take more memory.
        imported.DEFAULT_MAX_THREADS = 1
    parser: Parser = getattr(imported, name)
    return parser


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file: size, "ftyp", major, version, compatible ..."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 128)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
