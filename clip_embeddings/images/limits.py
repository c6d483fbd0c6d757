"""What an image may cost: pixels, memory, and the pixels of a whole request."""

from __future__ import annotations

import threading

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.headers import COSTS, ImageHeader

# The longest side that JPEG and GIF can express. PNG and BMP can express far more, and resizing takes 32
# bytes of coefficients for each pixel of a side.
MAX_SIDE = 65_535

# Bytes of a decoding that do not grow with the image: rows, tables, the model's input.
_FIXED = 4 * 1024 * 1024
# Bytes per pixel while a picture with transparency is resized, itself included. It is premultiplied channel
# by channel if it is large, and as a copy of eight million pixels (32 MB) at most if it is not; see
# engine.resize.
_RESIZE_ALPHA = 5
_PREMULTIPLIED_COPY = 32_000_000
# Where Pillow looks for an orientation: EXIF, EXIF as text of a PNG, XMP.
_ORIENTATIONS = (b"Exif", b"eXIf", b"exif", b"adobe")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ApiError 413 `image_too_many_pixels` above `max_pixels`, or above MAX_SIDE on a side."""
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise too_many_pixels(f"{width:,} x {height:,} pixels", max_pixels)


def too_many_pixels(size: str, max_pixels: int) -> ApiError:
    """413 `image_too_many_pixels`."""
    return ApiError(
        413,
        "image_too_many_pixels",
        f"The image has {size}; accepted are at most {max_pixels:,} in all and {MAX_SIDE:,} on a side.",
    )


def reduction(header: ImageHeader, settings: ImageSettings, target: int) -> int:
    """1, 2, 4 or 8: by what a JPEG's sides are divided while it is decoded; both keep twice `target`."""
    if header.format != "JPEG" or settings.exact:
        return 1
    # As PIL.JpegImagePlugin.JpegImageFile.draft has it.
    scale = min(header.width, header.height) // (2 * target)
    return next((divisor for divisor in (8, 4, 2) if scale >= divisor), 1)


def decoding_bytes(header: ImageHeader, data: bytes, settings: ImageSettings, target: int) -> int:
    """Upper bound of the memory that decoding `data` and resizing the image takes, in bytes."""
    cost = COSTS[header.kind]
    divisor = reduction(header, settings, target)
    width, height = -(-header.width // divisor), -(-header.height // divisor)
    pixels = width * height
    image = cost.image * pixels
    decoding = int(cost.pixel * pixels) + header.fixed_bytes
    if settings.exif and any(name in data for name in _ORIENTATIONS):
        # To turn an image takes a second one.
        decoding = max(decoding, 2 * image)
    # Pillow resizes one side, then the other.
    between = 4 * target * max(width, height)
    resizing = image + between
    if "alpha" in header.kind:
        resizing = between + max(image + min(image, _PREMULTIPLIED_COPY), _RESIZE_ALPHA * pixels)
    return max(decoding, resizing) + cost.copies * len(data) + _FIXED


def too_much_memory(header: ImageHeader, needed: int, available: int) -> ApiError:
    """413 `image_too_many_pixels`: this process could never decode the image."""
    # In proportion, and rounded down to what has two digits.
    allowed = header.pixels * max(0, available - _FIXED) // needed
    step = 10 ** max(0, len(str(allowed)) - 2)
    return ApiError(
        413,
        "image_too_many_pixels",
        f"The image has {header.width:,} x {header.height:,} pixels, and decoding it takes "
        f"{needed // 2**20:,} MiB of memory; of a file like this ({header.kind}), at most about "
        f"{allowed // step * step:,} pixels are accepted here.",
    )


class PixelQuota:
    """How many pixels the images of one request may have, all together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._lock = threading.Lock()

    def take(self, pixels: int) -> None:
        """Count an image of `pixels`. Raises ApiError 413 `request_too_many_pixels` if they are too many."""
        with self._lock:
            if pixels <= self._left:
                self._left -= pixels
                return
        message = f"The images of the request have more than {self._limit:,} pixels together; send fewer."
        raise ApiError(413, "request_too_many_pixels", message)
