"""Decodes untrusted bytes into a Pillow image, in the mode that open_clip would see."""

from __future__ import annotations

import io
import time
import warnings
from functools import cache
from typing import Any

from PIL import Image, ImageFile

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.formats import Parser, detect_format, find_parser
from clip_embeddings.images.headers import ImageHeader, read_header, undecodable
from clip_embeddings.images.jpeg_header import has_too_many_scans
from clip_embeddings.images.limits import check_size, reduction, too_many_pixels

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


def decode_image(
    data: bytes, *, settings: ImageSettings, max_pixels: int, target: int, timeout: float = 3600.0
) -> Image.Image:
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
        timeout: seconds. JPEG, PNG, GIF and BMP are decoded in blocks of their bytes, and given up at the end
            of a block. WebP, AVIF and HEIC are decoded in one call of their library, which takes as long as
            it does.

    Returns:
        A loaded image of mode 1, L, LA, P, RGB, RGBA or CMYK.

    Raises:
        ApiError: 422 `image_unsupported`, 422 `image_undecodable`, 422 `decode_timeout`,
            413 `image_too_many_pixels`.
    """
    header = read_header(data)
    check_size(header.width, header.height, max_pixels)
    try:
        return _decode(header, data, settings, max_pixels, target, time.monotonic() + timeout)
    except ApiError:
        raise
    except _DeadlinePassedError:
        message = f"Decoding the {header.format} image took more than {timeout:g} seconds."
        failure = ApiError(422, "decode_timeout", message)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        failure = too_many_pixels(f"more than {max_pixels:,} pixels", max_pixels)
    except Exception:
        # Hostile bytes make codecs raise nearly every built-in exception.
        failure = undecodable(header.format)
    # Raised outside the `except` block, so that the error does not keep the half-decoded image alive.
    raise failure


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header of `data` has them: before any EXIF orientation.

    Only for data that `decode_image` has decoded: nothing is checked again.
    """
    with _open(detect_format(data), data) as image:
        return image.size


def _decode(
    header: ImageHeader, data: bytes, settings: ImageSettings, max_pixels: int, target: int, deadline: float
) -> Image.Image:
    # Two parsers reserve memory while they read the header (WebP's canvas, GIF's disposal). They check the
    # size against Pillow's MAX_IMAGE_PIXELS (89 megapixels by default); they refuse images above twice that.
    # It must not be lower than `max_pixels`.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    if header.format == "JPEG" and has_too_many_scans(data):
        raise ValueError("more scans than any encoder writes")
    image = _open(header.format, data, deadline)
    _check_against_header(image, header)
    if reduction(header, settings, target) > 1:
        image.draft("RGB", (2 * target, 2 * target))
    image.load()
    # A decoded HEIC image may be larger than its header says.
    _check_against_header(image, header)
    return _eight_bit(_upright(image) if settings.exif else image)


def _check_against_header(image: Image.Image, header: ImageHeader) -> None:
    """Memory was reckoned from `header`: refuse an image that is larger than that."""
    if image.width * image.height > header.pixels:
        raise ValueError("the image is larger than its header says")


def _open(format: str, data: bytes, deadline: float = float("inf")) -> ImageFile.ImageFile:
    parser: Parser = find_parser(format)
    if format in ("WebP", "AVIF"):
        parser = _releasing(parser)
    try:
        image = parser(_Reader(data, deadline))
    except _DeadlinePassedError:
        raise
    except Exception:
        if format != "JPEG":
            raise
        # The parser reads the resolution from EXIF, and a good image with broken EXIF must still decode.
        image = parser(_Reader(data.replace(b"Exif\0\0", bytes(6)), deadline))
    if format == "JPEG":
        image.decodermaxblock = _JPEG_BLOCK
    return image


# Bytes that the JPEG decoder gets at a time; the deadline is checked in between. Measured: larger blocks, or
# the whole file at once, are no faster.
_JPEG_BLOCK = 256 * 1024


@cache
def _releasing(parser: Any) -> Any:
    """`parser`, which keeps its decoder as `_decoder`, made to give it up once it has decoded the frame.

    Pillow copies the frame into memory of its own then, and would keep the decoder's canvases meanwhile and
    as long as the image.
    """

    class Releasing(parser):  # type: ignore[misc]
        def load_prepare(self) -> None:
            self._decoder = None
            super().load_prepare()

    return Releasing


class _DeadlinePassedError(Exception):
    """Decoding has taken too long."""


class _Reader(io.BytesIO):
    """A file that can be read a limited number of times, and until a deadline of time.monotonic().

    Pillow parses headers, and all of a run-length BMP, in Python. Each segment costs microseconds and 150
    bytes of memory, and a hostile file can consist of four-byte segments. Decoders of real images read in
    blocks. PNG needs the most reads: three for each chunk, which commonly has 8 KiB.
    """

    def __init__(self, data: bytes, deadline: float) -> None:
        super().__init__(data)
        self.reads_left = 250_000
        self.deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError("too many small reads")
        if time.monotonic() > self.deadline:
            raise _DeadlinePassedError
        return super().read(size)


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
