"""Reads from a file's header how large the image is and how much memory decoding it will take.

Decoders cannot be asked: some reserve the memory before they tell the size. The parsers here take a few bytes
and microseconds. What they say is checked again once the decoder has read the header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from clip_embeddings.errors import ApiError
from clip_embeddings.images.av1 import coded_pixels
from clip_embeddings.images.boxes import find_boxes, walk_boxes
from clip_embeddings.images.formats import detect_format
from clip_embeddings.images.jpeg_header import jpeg_frame


class Cost(msgspec.Struct, frozen=True):
    """Memory that decoding takes at its peak."""

    # Bytes for each pixel of the decoded image, the image included.
    pixel: float
    # Bytes for each pixel of the decoded image in Pillow's memory.
    image: int
    # Copies of the file, beside the one that the caller holds.
    copies: int = 0


# Measured with Pillow 13.0 (libjpeg-turbo 3.2, libwebp 1.6, libavif 1.4) and pillow-heif 1.8: how far the
# peak of resident memory rises in a new process, for noise of 4096 x 3072 pixels and one color of 7071 x
# 7071, rounded up. tests/images/test_memory.py measures it again. Pillow keeps one byte for each pixel of the
# modes 1, L and P, and four of others. The coefficients of a progressive JPEG come on top; see jpeg_header.
COSTS = {
    "JPEG, gray": Cost(1, 1),
    "JPEG": Cost(4, 4),
    "PNG, gray or palette": Cost(1, 1),
    # 16 bits in Pillow, a copy of them as bytes, in two steps, and the 8 bits that stay.
    "PNG, 16-bit gray": Cost(6, 1),
    "PNG": Cost(4, 4),
    "PNG with alpha": Cost(4, 4),
    # The pixels, and what replaces them in the next frame.
    "GIF": Cost(2, 1),
    # Run-length coding is decoded in Python: the rows, a copy of them, the image.
    "BMP, up to 256 colors": Cost(3, 1),
    "BMP": Cost(4, 4),
    "BMP with alpha": Cost(4, 4),
    # Pillow always takes the decoder of animations: two canvases, and the frame as bytes.
    "WebP": Cost(12, 4, 2),
    # The alpha plane, and what decodes it.
    "WebP with alpha": Cost(14, 4, 2),
    # Planes in full color resolution (the header cannot be relied on to say that it is lower), the frame as
    # RGB, and a copy of that as bytes.
    "AVIF": Cost(10, 4),
    "AVIF with alpha": Cost(13, 4),
    "AVIF, over 8 bits": Cost(13, 4),
    "AVIF with alpha, over 8 bits": Cost(17, 4),
    # Planes, the frame as RGB, the image.
    "HEIC": Cost(9, 4, 2),
    "HEIC with alpha": Cost(11, 4, 2),
    "HEIC, over 8 bits": Cost(15, 4, 2),
    "HEIC with alpha, over 8 bits": Cost(19, 4, 2),
}


class ImageHeader(msgspec.Struct, frozen=True):
    """What the header of an image file says: an upper bound where it is not exact."""

    format: str
    # In pixels, before any rotation.
    width: int
    height: int
    # A key of COSTS.
    kind: str
    # Bytes of memory that do not become fewer when the image is decoded at reduced size.
    fixed_bytes: int = 0
    # Bytes that only a file made to that end takes. They are reserved as far as there are so many, but no
    # image is refused because of them.
    rare_bytes: int = 0

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file.

    Raises:
        ApiError: 422 `image_unsupported`, 422 `image_undecodable`.
    """
    format = detect_format(data)
    try:
        header = _READERS[format](data)
    except (ValueError, IndexError, struct.error):
        header = None
    if header is None or header.width < 1 or header.height < 1:
        raise undecodable(format)
    return header


def undecodable(format: str) -> ApiError:
    """The error of a file that its decoder cannot read."""
    message = f"The {format} image is damaged or incomplete and cannot be decoded."
    return ApiError(422, "image_undecodable", message)


def _jpeg(data: bytes) -> ImageHeader:
    frame = jpeg_frame(data)
    kind = "JPEG, gray" if frame.components == 1 else "JPEG"
    return ImageHeader("JPEG", frame.width, frame.height, kind, frame.coefficient_bytes)


def _png(data: bytes) -> ImageHeader:
    # https://www.w3.org/TR/png-3/#11IHDR: the first chunk is IHDR.
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    kind = "PNG with alpha" if color in (4, 6) else "PNG"
    if color in (0, 3):
        kind = "PNG, 16-bit gray" if depth == 16 else "PNG, gray or palette"
    return ImageHeader("PNG", width, height, kind)


# Blocks before the first frame of a GIF: a few extensions. More are refused, because walking them takes time.
_MAX_GIF_BLOCKS = 100_000


def _gif(data: bytes) -> ImageHeader:
    # https://www.w3.org/Graphics/GIF/spec-gif89a.txt: the screen, then blocks.
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _color_table(flags)
    for _ in range(_MAX_GIF_BLOCKS):
        block = data[position]
        if block == 0x2C:
            # A frame that reaches over the screen makes the screen larger.
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
            return ImageHeader("GIF", max(width, left + frame_width), max(height, top + frame_height), "GIF")
        if block == 0x3B:
            break
        position += 1
        if block == 0x21:
            # An extension: a label, then sub-blocks that each start with their length, up to one of length 0.
            position += 1
            while size := data[position]:
                position += 1 + size
            position += 1
    raise ValueError("no frame")


def _color_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> ImageHeader:
    # https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-header-types: BITMAPCOREHEADER has 12 bytes.
    (size,) = struct.unpack_from("<I", data, 14)
    width, height, _, bits = struct.unpack_from("<HHHH" if size == 12 else "<iiHH", data, 18)
    # Rows from top to bottom have a negative height. Pillow reads the width as unsigned.
    kind = "BMP, up to 256 colors" if bits <= 8 else "BMP with alpha" if bits == 32 else "BMP"
    return ImageHeader("BMP", width % 2**32, abs(height), kind)


# Lossless WebP: a group of five prefix codes takes 5,440 bytes in libwebp, measured with 65,536 groups, the
# most that there are. It is described in 20 bits, and serves at least a block of 4 x 4 pixels: RFC 9649,
# section 3.7.2. Longer codes take larger tables, reckoned as 40 bytes for each byte of the file. libwebp's
# encoder writes 2,600 groups at most.
_GROUP_BYTES, _MAX_GROUPS, _GROUP_BITS = 5_440, 65_536, 20
_TABLE_BYTES = 40


def _webp(data: bytes) -> ImageHeader:
    header = _webp_size(data)
    if b"VP8L" not in data and b"ALPH" not in data:
        return header
    blocks = -(-header.width // 4) * -(-header.height // 4)
    groups = min(_MAX_GROUPS, blocks, 8 * len(data) // _GROUP_BITS)
    return msgspec.structs.replace(header, rare_bytes=groups * _GROUP_BYTES + len(data) * _TABLE_BYTES)


def _webp_size(data: bytes) -> ImageHeader:
    # RFC 9649, sections 2.5 to 2.7: the first chunk is VP8, VP8L or VP8X.
    chunk, body = data[12:16], 20
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(data[body + 4 : body + 7], "little")
        height = 1 + int.from_bytes(data[body + 7 : body + 10], "little")
        kind = "WebP with alpha" if data[body] & 0x10 else "WebP"
        return ImageHeader("WebP", width, height, kind)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, body + 1)
        return ImageHeader("WebP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), "WebP")
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, body + 6)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF, "WebP")
    raise ValueError("no such chunk")


# Pixels that the frame of an AVIF may have beyond its image: some encoders fill its last blocks up.
_CODED_MARGIN = 1_000_000


def _heif(format: str) -> Callable[[bytes], ImageHeader]:
    def read(data: bytes) -> ImageHeader:
        """The largest of all images in the file: the main one, its tiles, its transparency, thumbnails."""
        width = height = 0
        alpha = deep = False
        # Item properties: ISO/IEC 14496-12, 8.11.14.
        properties = [
            box
            for first, last in find_boxes(data, b"meta", b"iprp", b"ipco")
            for box in walk_boxes(data, first, last)
        ]
        for name, start, end in properties:
            if name == b"ispe":
                size = struct.unpack_from(">II", data, start + 4)
                if size[0] * size[1] > width * height:
                    width, height = size
            elif name == b"auxC":
                alpha = alpha or b"alpha" in data[start:end] or b"auxid:1" in data[start:end]
            elif name == b"av1C":
                # AV1 Codec ISO Media File Format Binding, 2.3.3: high_bitdepth.
                deep = deep or bool(data[start + 2] & 0x40)
            elif name == b"hvcC":
                # ISO/IEC 14496-15, 8.3.3.1.2: bitDepthLumaMinus8 and bitDepthChromaMinus8.
                deep = deep or bool((data[start + 17] | data[start + 18]) & 7)
        if format == "AVIF" and coded_pixels(data) > width * height + _CODED_MARGIN:
            raise ValueError("the frame is larger than the image")
        kind = f"{format}{' with alpha' if alpha else ''}{', over 8 bits' if deep else ''}"
        return ImageHeader(format, width, height, kind)

    return read


_READERS: dict[str, Callable[[bytes], ImageHeader]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "WebP": _webp,
    "AVIF": _heif("AVIF"),
    "HEIC": _heif("HEIC"),
}
