"""Measures the memory that decoding takes, in a process of its own for each picture.

Run as a script with an empty folder, it prints a line per picture: its name, the MiB measured, the MiB
reckoned from its header.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from clip_embeddings.config import ImageSettings
from clip_embeddings.engine.manifest import Preprocess
from clip_embeddings.engine.preprocess import to_pixels
from clip_embeddings.images.decoding import decode_image
from clip_embeddings.images.headers import read_header
from clip_embeddings.images.limits import decoding_bytes
from tests.support.hostile_images import bmp, save
from tests.support.hostile_pictures import webp_animated, webp_lossless
from tests.support.preprocessing import CLIP

MiB = 1024 * 1024
WIDTH, HEIGHT = 2400, 2000


def pictures(width: int, height: int) -> Iterator[tuple[str, bytes]]:
    """A picture of each kind, of noise, which takes more memory than an even color."""
    generator = np.random.RandomState(0)
    color = Image.fromarray(generator.randint(0, 256, (height, width, 3), np.uint8))
    clear = Image.fromarray(generator.randint(0, 256, (height, width, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("L", "RGB", "CMYK"):
        yield f"JPEG {mode}", save(color.convert(mode), "JPEG", subsampling=0)
        yield f"progressive JPEG {mode}", save(color.convert(mode), "JPEG", subsampling=0, progressive=True)
    yield "progressive JPEG 4:2:0", save(color, "JPEG", progressive=True)
    for mode in ("1", "L", "P", "RGB", "LA", "RGBA"):
        picture = color.quantize(16) if mode == "P" else (clear if "A" in mode else color).convert(mode)
        yield f"PNG {mode}", save(picture, "PNG", compress_level=1)
    yield "PNG to be turned", save(color, "PNG", compress_level=1, exif=exif)
    gray = Image.fromarray(generator.randint(0, 65536, (height, width), np.uint16))
    yield "PNG, 16-bit gray", save(gray, "PNG", compress_level=1)
    frames = [color.quantize(16), clear.convert("RGB").quantize(16)]
    yield "GIF", save(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)
    yield "BMP", save(color, "BMP")
    row = b"\xff\x01" * (width // 255) + bytes([width % 255, 1, 0, 0])
    yield "BMP, run lengths", bmp(width, height, 8, 1, row * height + b"\0\1")
    fast = {"method": 0, "quality": 50}
    yield "WebP", save(color, "WEBP", **fast)
    yield "WebP with alpha", save(clear, "WEBP", **fast)
    yield "WebP lossless", save(clear, "WEBP", method=0, quality=0, lossless=True)
    yield "WebP of one color", webp_lossless(width, height)
    yield "WebP, one frame", webp_animated(width, height)
    for sampling in ("4:2:0", "4:4:4"):
        yield f"AVIF {sampling}", save(color, "AVIF", speed=10, subsampling=sampling)
        yield f"AVIF with alpha {sampling}", save(clear, "AVIF", speed=10, subsampling=sampling)
    quick = {"quality": 50, "enc_params": {"preset": "ultrafast"}}
    for chroma in (420, 444):
        yield f"HEIC {chroma}", save(color, "HEIF", chroma=chroma, **quick)
        yield f"HEIC with alpha {chroma}", save(clear, "HEIF", chroma=chroma, **quick)
    for mode, values in (("RGB;16", color), ("RGBA;16", clear)):
        deep = np.asarray(values).astype("<u2") * 257
        file = io.BytesIO()
        pillow_heif.from_bytes(mode, (width, height), deep.tobytes()).save(file, **quick)
        yield f"HEIC {mode}", file.getvalue()


def peak(work: Callable[[], object]) -> int:
    """By how many bytes `work` raises this process's resident memory at most."""
    # https://docs.kernel.org/filesystems/proc.html: 5 resets the peak to the present value.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def _decode(data: bytes, settings: ImageSettings, preprocess: Preprocess = CLIP) -> None:
    to_pixels(decode_image(data, settings=settings, max_pixels=50_000_000, target=224), preprocess)


def in_child(work: Callable[[], object]) -> None:
    """Call `work` in a fork of this process, so that this one stays small."""
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            work()
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.wait()


def _measure(name: str, path: Path, settings: ImageSettings) -> None:
    data = path.read_bytes()
    needed = decoding_bytes(read_header(data), data, settings, 224)
    taken = peak(lambda: _decode(data, settings))
    print(f"{name}{', exact' * settings.exact}\t{taken / MiB:.1f}\t{needed / MiB:.1f}")


def main(folder: Path) -> None:
    """Measure every picture, with the default settings and with exact decoding."""

    def write() -> None:
        for name, data in pictures(WIDTH, HEIGHT):
            (folder / name).write_bytes(data)

    in_child(write)
    for _, data in pictures(64, 48):
        # Loads the decoder's library.
        _decode(data, ImageSettings())
    for path in sorted(folder.iterdir()):
        for exact in (False, True) if "JPEG" in path.name else (False,):
            in_child(partial(_measure, path.name, path, ImageSettings(exact=exact)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
