"""Untrusted bytes to a Pillow image, in the mode that open_clip would see."""

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

# One parser per format, imported when the first such picture comes. Image.open() would import all of
# Pillow's some forty plugins to find WebP, and reads phone JPEGs through the TIFF code for the sake of
# frames that nobody asked for.
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
# `mif1` and `msf1` name the container only, so they are asked last.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# What people send by mistake, told apart only to say so: (start, name).
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

# Values of the EXIF orientation tag (274, CIPA DC-008 4.6.5) and what undoes them.
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

# Pillow warns of odd EXIF, odd APNG and large pictures, in words of the uploader's making. Once per
# process, because warnings.catch_warnings is not safe with threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes, *, settings: ImageSettings, max_pixels: int, target: int) -> Image.Image:
    """Decode the first frame of `data`.

    The format is read from the bytes themselves. The mode stays as the file has it (palette, grey,
    CMYK, alpha ...), because open_clip resizes before it converts to RGB. One exception: 16-bit grey is
    scaled to 8 bits, where open_clip clips it to white.

    Args:
        data: the file, hostile until decoded.
        settings: `exif` turns the picture upright. Without `exact`, a JPEG is decoded at 1/2, 1/4 or 1/8
            of its size as long as both sides keep twice `target`. HEIC is always upright: its rotation is
            part of the picture.
        max_pixels: largest width x height, checked before any pixel is decoded. No side may be longer
            than 65,535.
        target: shorter side of the model's input, in pixels.

    Returns:
        A loaded image of mode 1, L, LA, P, RGB, RGBA or CMYK.

    Raises:
        CallerError: 422 `image_unsupported`, 422 `image_undecodable`, 413 `image_too_many_pixels`.
    """
    kind = _sniff(data)
    module, name = _PARSERS[kind]
    parser: Parser = getattr(import_module(module), name)
    try:
        return _decode(kind, parser, data, settings, max_pixels, target)
    except ApiError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        failure = _too_large(f"more than {max_pixels:,} pixels", max_pixels)
    except Exception:
        # Codecs fail on hostile bytes with nearly every built-in exception there is.
        failure = ApiError(
            422, "image_undecodable", f"The {kind} image is damaged or incomplete and cannot be decoded."
        )
    # Raised out here, the error does not keep the half-decoded picture alive.
    raise failure


def _decode(
    kind: str, parser: Parser, data: bytes, settings: ImageSettings, max_pixels: int, target: int
) -> Image.Image:
    # Two parsers reserve memory while they read the header (WebP's canvas, GIF's disposal). They ask this
    # limit of Pillow's, 89 megapixels, and refuse at twice its value; it must not be lower than ours.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    image = _open_jpeg(parser, data) if kind == "JPEG" else parser(_Reader(data))
    _check_size(image, max_pixels)
    if kind == "JPEG" and not settings.exact:
        image.draft("RGB", (2 * target, 2 * target))
    image.load()
    # HEIC may turn out larger than its header said.
    _check_size(image, max_pixels)
    return _eight_bit(_upright(image) if settings.exif else image)


def _sniff(data: bytes) -> str:
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    what = "empty" if not data else "a video" if brands else "not an image of a known format"
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        what = "an SVG drawing"
    what = next((name for start, name in _NOT_IMAGES if text.startswith(start)), what)
    raise ApiError(422, "image_unsupported", f"The data is {what}; send {ACCEPTED}.")


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file: size, "ftyp", major, version, compatible ..."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 128)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _open_jpeg(parser: Parser, data: bytes) -> ImageFile.ImageFile:
    if _too_many_scans(data):
        raise ValueError("more scans than any encoder writes")
    try:
        image = parser(_Reader(data))
    except Exception:
        # Pillow looks into EXIF for the resolution already here, and broken EXIF must not cost the picture.
        image = parser(_Reader(data.replace(b"Exif\0\0", bytes(6))))
    # In blocks of 64 KiB, Pillow's default, decoding takes 5 % longer.
    image.decodermaxblock = len(data)
    return image


class _Reader(io.BytesIO):
    """A file that may be read so many times and no more.

    Pillow walks through headers, and through run-length BMP as a whole, in Python: a file of four-byte
    segments costs it microseconds and 150 bytes of memory for each. Decoders of real pictures read in
    blocks; the longest lists are PNG's, three reads for each chunk of commonly 8 KiB.
    """

    reads_left = 250_000

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError("too many small reads")
        return super().read(size)


# A progressive JPEG comes in about ten scans. Each may be a few bytes long and costs a pass over the
# whole picture (45 ms at 50 megapixels), so that a megabyte of scans would take minutes.
_MAX_SCANS = 64
_MAX_SEGMENTS = 100_000
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI = 0xDA, 0xD9
# SOF0 and SOF1, sequential Huffman coding: ITU-T T.81, table B.1.
_SEQUENTIAL = (0xC0, 0xC1)


def _too_many_scans(data: bytes) -> bool:
    at, scans, components = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, at)
        if marker is None or data[marker.end() - 1] == _EOI:
            return False
        at = marker.end()
        kind = data[at - 1]
        if kind in _SEQUENTIAL:
            components = int.from_bytes(data[at + 7 : at + 8])
        if kind == _SOS:
            # With all components in it, the first scan of such a picture is its last: no need to look on.
            whole = components and components == int.from_bytes(data[at + 2 : at + 3])
            if not scans and (whole or data.count(b"\xff\xda") <= _MAX_SCANS):
                return False
            scans += 1
            if scans > _MAX_SCANS:
                break
        at += int.from_bytes(data[at : at + 2], "big")
    return True


# The longest side that JPEG and GIF can say. PNG and BMP can say far more, and resizing takes 32 bytes
# of coefficients for each pixel of a side.
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
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Whatever is wrong with the EXIF block, the picture is good.
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow keeps 16 bits for grey PNG only, and takes the high byte of 16-bit colour. So do we of grey.
    if image.mode == "I;16":
        return Image.frombytes("L", image.size, image.tobytes(), "raw", "L;16")
    # HEIC with premultiplied alpha.
    return image.convert("RGBA") if image.mode == "RGBa" else image
