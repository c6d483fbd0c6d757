"""Image files for tests of decoding: valid ones, oversized ones and damaged ones.

A module of its own, so that a subprocess can import it: tests measure the memory that these files take.
"""

from __future__ import annotations

import io
import struct
import traceback
import zlib

import pillow_heif
import pytest
from PIL import Image

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.decoding import decode_image

# Settings with which decoding gives exactly what open_clip would see.
EXACT = ImageSettings(exif=False, exact=True)

pillow_heif.register_heif_opener()


def decode(data: bytes, settings: ImageSettings = EXACT, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode `data` for a model whose input has 224 x 224 pixels."""
    return decode_image(data, settings=settings, max_pixels=max_pixels, target=224)


def save(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of `image` as a file of Pillow's `format`."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decode_error(data: bytes, max_pixels: int = 50_000_000) -> ApiError:
    """The error of decoding `data`, which must fail; asserts that the error keeps no image in memory."""
    with pytest.raises(ApiError) as caught:
        decode(data, ImageSettings(), max_pixels)
    assert caught.value.message.endswith(".")
    # The error of one item lives until the whole reply is made.
    assert caught.value.__context__ is None
    if caught.value.code == "image_undecodable":
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        assert not [name for frame in frames for name in frame.f_locals if name == "image"]
    return caught.value


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of `chunks`, each a type and a body."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def ihdr(width: int, height: int, depth: int = 8, color_type: int = 2) -> tuple[bytes, bytes]:
    """The header chunk of a PNG file."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    """A BMP file with any header."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    palette = bytes(range(256)) * 4 if bits == 8 else b""
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + body


def insert(data: bytes, position: int, piece: bytes) -> bytes:
    """`data` with `piece` inserted at `position`."""
    return data[:position] + piece + data[position:]


GIF_HEADER = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0)

# Files whose headers claim more than 50 million pixels, or a side of more than 65,535.
OVERSIZED = {
    "png": png(ihdr(30_000, 30_000), (b"IDAT", b"")),
    "png, slightly too large": png(ihdr(7072, 7071), (b"IDAT", b"")),
    "png, one long side": png(ihdr(1, 65_536), (b"IDAT", b"")),
    "gif screen": save(Image.new("L", (4, 4)), "GIF").replace(b"\x04\0\x04\0", b"\xff\xff\xff\xff", 1),
    "gif frame": GIF_HEADER + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x08\0",
    "gif disposal": GIF_HEADER
    + b"!\xf9\x04\x08\0\0\0\0,"
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    + b"\x08\0",
    "bmp": bmp(100_000, 100_000),
    "bmp upside down": bmp(100_000, -100_000),
    "bmp negative width": bmp(-2, 5),
    "bmp run-length": bmp(60_000, 60_000, 8, 1),
    "jpeg": save(Image.new("L", (8, 8)), "JPEG").replace(
        b"\x08\0\x08\0\x08\x01", b"\x08\xff\xff\xff\xff\x01"
    ),
    "webp": save(
        Image.new("RGBA", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    ).replace(b"\x07\0\0\x07\0\0", b"\xff\xff\0\xff\xff\0", 1),
    "avif": save(Image.new("RGB", (8, 8)), "AVIF").replace(
        b"ispe\0\0\0\0\0\0\0\x08\0\0\0\x08", b"ispe\0\0\0\0\0\0\x40\0\0\0\x40\0"
    ),
    "heic": save(Image.new("RGB", (64, 64)), "HEIF").replace(
        b"ispe\0\0\0\0\0\0\0\x40\0\0\0\x40", b"ispe\0\0\0\0\0\0\x40\0\0\0\x40\0"
    ),
}


# 20 MiB of zeros in 20 KB.
BOMB = zlib.compress(bytes(20 * 2**20), 9)
SMALL_JPEG = save(Image.new("L", (8, 8)), "JPEG")
SMALL_PNG = save(Image.new("L", (8, 8)), "PNG")
EXTRA_CHUNK = b"\0\0\0\0prVt" + struct.pack(">I", zlib.crc32(b"prVt"))

# Files that no decoder can or should decode.
DAMAGED = {
    "png, zero width": png(ihdr(0, 5), (b"IDAT", b"")),
    "png, profile bomb": png(ihdr(8, 8), (b"iCCP", b"x\0\0" + BOMB), (b"IDAT", b"")),
    "png, text bomb": png(ihdr(8, 8), (b"zTXt", b"x\0\0" + BOMB), (b"IDAT", b"")),
    "png, too few rows": png(ihdr(5000, 5000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
    "png, a million chunks": insert(SMALL_PNG, 33, EXTRA_CHUNK * 400_000),
    "jpeg, a million segments": insert(SMALL_JPEG, 2, b"\xff\xe5\0\x02" * 400_000),
    "jpeg, junk": insert(SMALL_JPEG, 20, bytes(800_000)),
    "jpeg, a thousand scans": SMALL_JPEG[:-2] + SMALL_JPEG[SMALL_JPEG.find(b"\xff\xda") : -2] * 1000,
    "gif, a million comments": GIF_HEADER + b"!\xfe" + b"\x01a" * 800_000,
    "gif, no frame": GIF_HEADER + b";",
    "bmp, run-length": bmp(5000, 5000, 8, 1, b"\x01\x02" * 400_000),
    "bmp, zero height": bmp(5, 0),
    "webp, header only": b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(20),
    "avif, header only": b"\0\0\0\x14ftypavif\0\0\0\0avif",
    "heic, header only": b"\0\0\0\x14ftypheic\0\0\0\0mif1",
}
