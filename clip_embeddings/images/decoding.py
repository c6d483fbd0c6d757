"""Decodes untrusted bytes into a Pillow image, in the mode that open_clip would see."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from importlib import import_module

from PIL import Image, ImageFile

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError

Parser = Callable[[io.BytesIO], ImageFile.ImageFile]

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

# The EXIF orientation tag (274, CIPA DC-008 4.6.5), and the transposition that undoes each of its values.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns about odd EXIF, odd APNG and large images, with text that the uploader controls. The filter is
# set once per process, because warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes, *, settings: ImageSettings, max_pixels: int, target: int) -> Image.Image:
    """Decode the first frame of `data`.

    The format is detected from the bytes. The mode stays as it is in the file (palette, gray, CMYK,
    alpha ...), because open_clip resizes before it converts to RGB. The one exception is 16-bit gray, which
    is scaled to 8 bits, where open_clip clips it to white.

    Args:
        data: the file, which may be hostile.
        settings: `exif` turns the image upright. Without `exact`, a JPEG is decoded at 1/2, 1/4 or 1/8 of
            its size as long as both sides keep twice `target`. HEIC is always upright: its rotation is part
            of the image.
        max_pixels: largest width x height, checked before any pixel is decoded. No side may have more than
            65,535 pixels.
        target: shorter side of the model's input, in pixels.

    Returns:
        A loaded image of mode 1, L, LA, P, RGB, RGBA or CMYK.

    Raises:
        ApiError: 422 `image_unsupported`, 422 `image_undecodable`, 413 `image_too_many_pixels`.
    """
    format = _detect_format(data)
    module, name = _PARSERS[format]
    parser: Parser = getattr(import_module(module), name)
    try:
        return _decode(format, parser, data, settings, max_pixels, target)
    except ApiError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        failure = _too_large(f"more than {max_pixels:,} pixels", max_pixels)
    except Exception:
        # Hostile bytes make codecs raise nearly every built-in exception.
        failure = ApiError(
            422, "image_undecodable", f"The {format} image is damaged or incomplete and cannot be decoded."
        )
    # Raised outside the `except` block, so that the error does not keep the half-decoded image alive.
    raise failure


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header of `data` has them: before any EXIF orientation.

    Only for data that `decode_image` has decoded: nothing is checked again.
    """
    format = _detect_format(data)
    module, name = _PARSERS[format]
    parser: Parser = getattr(import_module(module), name)
    with _open_jpeg(parser, data) if format == "JPEG" else parser(_Reader(data)) as image:
        return image.size


def _decode(
    format: str, parser: Parser, data: bytes, settings: ImageSettings, max_pixels: int, target: int
) -> Image.Image:
    # Two parsers reserve memory while they read the header (WebP's canvas, GIF's disposal). They check the
    # size against Pillow's MAX_IMAGE_PIXELS (89 megapixels by default); they refuse images above twice that.
    # It must not be lower than `max_pixels`.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    image = _open_jpeg(parser, data) if format == "JPEG" else parser(_Reader(data))
    _check_size(image, max_pixels)
    if format == "JPEG" and not settings.exact:
        image.draft("RGB", (2 * target, 2 * target))
    image.load()
    # A decoded HEIC image may be larger than its header says.
    _check_size(image, max_pixels)
    return _eight_bit(_upright(image) if settings.exif else image)


def _detect_format(data: bytes) -> str:
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


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file: size, "ftyp", major, version, compatible ..."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 128)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _open_jpeg(parser: Parser, data: bytes) -> ImageFile.ImageFile:
    if _has_too_many_scans(data):
        raise ValueError("more scans than any encoder writes")
    try:
        image = parser(_Reader(data))
    except Exception:
        # The parser reads the resolution from EXIF, and a good image with broken EXIF must still decode.
        image = parser(_Reader(data.replace(b"Exif\0\0", bytes(6))))
    # Pillow's default, blocks of 64 KiB, makes decoding take 5% longer.
    image.decodermaxblock = len(data)
    return image


class _Reader(io.BytesIO):
    """A file that can be read a limited number of times.

    Pillow parses headers, and all of a run-length BMP, in Python. Each segment costs microseconds and 150
    bytes of memory, and a hostile file can consist of four-byte segments. Decoders of real images read in
    blocks. PNG needs the most reads: three for each chunk, which commonly has 8 KiB.
    """

    reads_left = 250_000

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError("too many small reads")
        return super().read(size)


# A progressive JPEG has about ten scans. A scan can be a few bytes long and costs a pass over the whole image
# (45 ms at 50 megapixels), so a megabyte of scans would take minutes.
_MAX_SCANS = 64
_MAX_SEGMENTS = 100_000
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI = 0xDA, 0xD9
# SOF0 and SOF1, sequential Huffman coding: ITU-T T.81, table B.1.
_SEQUENTIAL = (0xC0, 0xC1)


def _has_too_many_scans(data: bytes) -> bool:
    position, scans, components = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None or data[marker.end() - 1] == _EOI:
            return False
        position = marker.end()
        code = data[position - 1]
        if code in _SEQUENTIAL:
            components = int.from_bytes(data[position + 7 : position + 8])
        if code == _SOS:
            # A first scan that holds all components of a sequential image is also its last, so no more scans
            # need to be counted.
            complete = components and components == int.from_bytes(data[position + 2 : position + 3])
            if not scans and (complete or data.count(b"\xff\xda") <= _MAX_SCANS):
                return False
            scans += 1
            if scans > _MAX_SCANS:
                break
        position += int.from_bytes(data[position : position + 2], "big")
    return True


# The longest side that JPEG and GIF can express. PNG and BMP can express far more, and resizing takes 32
# bytes of coefficients for each pixel of a side.
_MAX_SIDE = 65_535


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels or max(image.size) > _MAX_SIDE:
        raise _too_large(f"{image.width:,} x {image.height:,} pixels", max_pixels)


def _too_large(size: str, max_pixels: int) -> ApiError:
    return ApiError(
        413,
        "image_too_many_pixels",
        f"The image has {size}; accepted are at most {max_pixels:,} in all and {_MAX_SIDE:,} on a side.",
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        transposition = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # The EXIF block is broken, the image itself is good.
        return image
    return image if transposition is None else image.transpose(transposition)


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow takes the high byte of 16-bit color, but keeps all 16 bits of a gray PNG, reduced to 8 here.
    if image.mode == "I;16":
        return Image.frombytes("L", image.size, image.tobytes(), "raw", "L;16")
    # HEIC can have premultiplied alpha.
    return image.convert("RGBA") if image.mode == "RGBa" else image
