"""Small valid files that take the most memory to decode: pictures of one color as large as a default allows.

Some encoders take seconds and over a gigabyte, so files are kept in build/pictures/ for the next run.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

# The largest square within the default MAX_IMAGE_PIXELS of 50,000,000.
SIDE = 7071

_CACHE = Path(__file__).resolve().parents[2] / "build" / "pictures"
# Part of the files' names, so that a change of this module makes them anew.
_SOURCE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def hostile_picture(name: str, width: int = SIDE, height: int = SIDE) -> bytes:
    """The picture `name`, a key of PICTURES, of `width` x `height` pixels."""
    path = _CACHE / f"{name.replace(' ', '-')}-{width}x{height}-{_SOURCE}"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        data = PICTURES[name](width, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several test processes may make the same file: none may read a half-written one.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    return data


def webp_lossless(width: int, height: int) -> bytes:
    """A WebP of 28 bytes whose every pixel costs no bit."""
    return _riff(_vp8l(width, height))


def webp_animated(width: int, height: int, frames: int = 1) -> bytes:
    """A WebP animation whose frames cover the canvas."""
    size = _uint24(width - 1) + _uint24(height - 1)
    # WebP container specification: 0x10 is alpha, 0x02 animation; a frame starts at 0, 0 and lasts 100 ms.
    canvas = _chunk(b"VP8X", bytes([0x12, 0, 0, 0]) + size)
    frame = _chunk(b"ANMF", bytes(6) + size + _uint24(100) + b"\0" + _vp8l(width, height))
    return _riff(canvas + _chunk(b"ANIM", bytes(6)) + frame * frames)


def webp_lossy(width: int, height: int) -> bytes:
    """A WebP with a VP8 key frame."""
    return _saved("RGB", (width, height), "WEBP", method=1, quality=0)


def avif_rgba(width: int, height: int) -> bytes:
    """An AVIF with an alpha plane, and with color planes of its full size."""
    return _saved("RGBA", (width, height), "AVIF", quality=0, speed=10, subsampling="4:4:4", max_threads=1)


def heic_rgba(width: int, height: int) -> bytes:
    """A HEIC with an alpha plane, and with color planes of its full size."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    fast = {"preset": "ultrafast", "x265:ctu": "64", "x265:min-cu-size": "32"}
    return _saved("RGBA", (width, height), "HEIF", quality=0, chroma=444, enc_params=fast)


def png_rgba(width: int, height: int) -> bytes:
    """A PNG of 8-bit color with alpha. Row by row, so that making it takes no memory."""
    compress = zlib.compressobj(9)
    row = bytes(1 + 4 * width)
    pixels = b"".join(compress.compress(row) for _ in range(height)) + compress.flush()
    # Bit depth 8, color type 6 (RGBA), not interlaced.
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def jpeg_progressive_cmyk(width: int, height: int) -> bytes:
    """A progressive JPEG of four components. Its decoder holds every coefficient of the image at once."""
    return _saved("CMYK", (width, height), "JPEG", progressive=True, quality=5)


# By name: a function of width and height.
PICTURES: dict[str, Callable[[int, int], bytes]] = {
    "WebP lossless": webp_lossless,
    "WebP lossy": webp_lossy,
    "WebP animated": webp_animated,
    "AVIF RGBA": avif_rgba,
    "HEIC RGBA": heic_rgba,
    "PNG RGBA": png_rgba,
    "JPEG progressive CMYK": jpeg_progressive_cmyk,
}


def _saved(mode: str, size: tuple[int, int], format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def _vp8l(width: int, height: int) -> bytes:
    """A VP8L chunk of one color, as the WebP lossless bitstream specification (RFC 9649) describes it."""
    # Least significant bit first: 14 bits each of width - 1 and height - 1, one for alpha, three of version.
    header = (width - 1) | (height - 1) << 14 | 1 << 28
    # No transform, no color cache, no meta prefix codes; then five prefix codes of four bits each: simple, of
    # one symbol, which is written in one bit and is 0. Such a code takes no bit per pixel.
    codes = 0
    for number in range(5):
        codes |= 0b0001 << (3 + 4 * number)
    return _chunk(b"VP8L", b"\x2f" + struct.pack("<I", header) + codes.to_bytes(3, "little"))


def _riff(chunks: bytes) -> bytes:
    return _chunk(b"RIFF", b"WEBP" + chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _uint24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
