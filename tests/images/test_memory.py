"""What decoding takes of memory and time, and what is refused because of it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.av1 import coded_pixels
from clip_embeddings.images.decoder import ImageDecoder
from clip_embeddings.images.decoding import decode_image
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.headers import read_header
from clip_embeddings.images.limits import PixelQuota, decoding_bytes
from clip_embeddings.paths import ROOT
from clip_embeddings.semaphore import FairSemaphore, OverloadedError
from tests.support.hostile_images import save
from tests.support.hostile_pictures import webp_animated, webp_lossless
from tests.support.photographs import detailed_12mp_jpeg, photo

MiB = 2**20
SETTINGS = ImageSettings()


def decoder(memory: int = 400 * MiB, slots: int = 1, timeout: float = 30.0) -> ImageDecoder:
    return ImageDecoder(
        SETTINGS, 50_000_000, timeout, FairSemaphore(memory, queue=99), FairSemaphore(slots, queue=99)
    )


def needed(data: bytes, settings: ImageSettings = SETTINGS) -> int:
    """Bytes that decoding `data` for a model of 224 x 224 pixels is reckoned to take."""
    return decoding_bytes(read_header(data), data, settings, 224)


@pytest.mark.full
def test_no_decoding_takes_more_memory_than_its_header_lets_expect(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.decoding_memory", str(tmp_path)],
        cwd=ROOT,
        # As start-up sets it: large blocks go back to the system at once.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(8 * MiB)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) >= 40
    assert [line for line in lines if float(line[1]) > float(line[2])] == []


@pytest.mark.parametrize(
    ("data", "size", "kind"),
    [
        (webp_lossless(7071, 7071), (7071, 7071), "WebP"),
        (webp_animated(300, 7071), (300, 7071), "WebP with alpha"),
        (save(Image.new("RGB", (90, 80)), "WEBP"), (90, 80), "WebP"),
        (save(Image.new("RGBA", (90, 80)), "PNG"), (90, 80), "PNG with alpha"),
        (save(Image.new("RGB", (90, 80)), "GIF"), (90, 80), "GIF"),
        (save(Image.new("RGB", (90, 80)), "BMP"), (90, 80), "BMP"),
        (save(Image.new("RGB", (90, 80)), "AVIF"), (90, 80), "AVIF"),
        (save(Image.new("RGBA", (90, 80)), "AVIF"), (90, 80), "AVIF with alpha"),
        (save(Image.new("RGB", (96, 80)), "HEIF"), (96, 80), "HEIC"),
        (save(Image.new("RGBA", (96, 80)), "HEIF"), (96, 80), "HEIC with alpha"),
        (save(Image.new("L", (90, 80)), "JPEG"), (90, 80), "JPEG, gray"),
    ],
)
def test_size_and_kind_are_read_without_a_decoder(data: bytes, size: tuple[int, int], kind: str) -> None:
    header = read_header(data)

    assert (header.width, header.height) == size
    assert header.kind == kind


@pytest.mark.parametrize(("mode", "sampling"), [("RGB", 0), ("RGB", 2), ("CMYK", 0), ("L", 0)])
def test_a_progressive_jpeg_keeps_its_coefficients(mode: str, sampling: int) -> None:
    image = Image.new(mode, (100, 61))
    blocks = {("RGB", 0): 3 * 13 * 8, ("RGB", 2): 6 * 7 * 4, ("CMYK", 0): 4 * 13 * 8, ("L", 0): 13 * 8}

    progressive = read_header(save(image, "JPEG", progressive=True, subsampling=sampling))

    assert progressive.fixed_bytes == blocks[mode, sampling] * 64 * 2
    assert read_header(save(image, "JPEG", subsampling=sampling)).fixed_bytes == 0


def test_a_jpeg_that_is_decoded_at_reduced_size_needs_little() -> None:
    data = detailed_12mp_jpeg()

    assert needed(data) < 10 * MiB
    assert needed(data, ImageSettings(exact=True)) > 48 * MiB


def test_what_never_fits_is_refused_with_the_size_that_does() -> None:
    data = webp_lossless(7071, 7071)

    with pytest.raises(ApiError) as caught, decoder(300 * MiB).admit(data, 224):
        pass

    assert (caught.value.status, caught.value.code) == (413, "image_too_many_pixels")
    assert caught.value.message == (
        "The image has 7,071 x 7,071 pixels, and decoding it takes 576 MiB of memory; of a file like this "
        "(WebP), at most about 25,000,000 pixels are accepted here."
    )
    with decoder(300 * MiB).admit(webp_lossless(5000, 5000), 224):
        pass


def test_what_does_not_fit_now_waits_for_those_before_it() -> None:
    shared = decoder(300 * MiB, slots=9)
    data = webp_lossless(4000, 4000)
    order = []

    def second() -> None:
        with shared.admit(data, 224, deadline=time.monotonic() + 30):
            order.append("second")

    with shared.admit(data, 224):
        thread = threading.Thread(target=second)
        thread.start()
        with (
            pytest.raises(OverloadedError),
            shared.admit(data, 224, deadline=time.monotonic() + 0.05),
        ):
            pass
        order.append("first")
    thread.join(30)

    assert order == ["first", "second"]


def test_a_lossless_webp_reserves_what_its_prefix_codes_may_take() -> None:
    shared = decoder(300 * MiB, slots=9)
    lossless = save(photo("chelsea").resize((1200, 900)), "WEBP", lossless=True)
    assert needed(lossless) < 30 * MiB

    with (
        shared.admit(lossless, 224),
        pytest.raises(OverloadedError),
        shared.admit(lossless, 224, deadline=time.monotonic() + 0.05),
    ):
        pass


def test_after_the_deadline_nothing_is_begun() -> None:
    with pytest.raises(OverloadedError), decoder().admit(webp_lossless(9, 9), 224, deadline=time.monotonic()):
        pass


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_decoding_that_takes_too_long_is_given_up(format: str) -> None:
    data = save(photo("chelsea"), format)

    with pytest.raises(ApiError) as caught:
        decode_image(data, settings=SETTINGS, max_pixels=10**6, target=224, timeout=0)

    assert (caught.value.status, caught.value.code) == (422, "decode_timeout")
    assert caught.value.__context__ is None


def test_the_pixels_of_a_request_are_counted_before_they_are_decoded() -> None:
    quota = PixelQuota(1_000_000)
    shared, data = decoder(), webp_lossless(900, 900)

    with shared.admit(data, 224, quota=quota):
        pass
    with pytest.raises(ApiError) as caught, shared.admit(data, 224, quota=quota):
        pass
    with shared.admit(webp_lossless(300, 300), 224, quota=quota):
        pass

    assert (caught.value.status, caught.value.code) == (413, "request_too_many_pixels")
    assert "1,000,000" in caught.value.message


def test_a_jpeg_at_reduced_size_counts_a_quarter() -> None:
    shared, quota = decoder(), PixelQuota(4032 * 3024 // 4)

    with shared.admit(detailed_12mp_jpeg(), 224, quota=quota):
        pass
    with pytest.raises(ApiError), shared.admit(webp_lossless(1, 1), 224, quota=quota):
        pass


def test_an_image_larger_than_its_header_says_is_refused() -> None:
    # Where an extension is empty, Pillow goes on to skip what follows, here a frame, as if it belonged to it.
    large = save(Image.new("L", (300, 200)), "GIF")
    frame = b"," + struct.pack("<HHHHB", 0, 0, 10, 10, 0)
    hidden = b"!\xf9\0" + frame + bytes(ord(",") - len(frame) + 1) + b"\0"
    data = large[:6] + struct.pack("<HH", 10, 10) + large[10:]
    at = data.index(b",", 13)
    data = data[:at] + hidden + data[at:]

    assert read_header(data).pixels == 100
    with pytest.raises(ApiError) as caught:
        decode_image(data, settings=SETTINGS, max_pixels=10**6, target=224)
    assert caught.value.code == "image_undecodable"


def test_a_download_holds_what_it_may_read_then_what_it_has_read() -> None:
    memory = FairSemaphore(100, queue=9)

    with DownloadMemory(memory, 80, deadline=time.monotonic() + 30) as download:
        assert download.reserve() == 80
        with (
            pytest.raises(OverloadedError),
            DownloadMemory(memory, 80, deadline=time.monotonic() + 0.05) as other,
        ):
            other.reserve(30)
        download.shrink(60)
        with DownloadMemory(memory, 200, deadline=None) as other:
            assert other.max_bytes == 100
            assert other.reserve(40) == 40

    assert memory.try_acquire(100)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_avif_whose_frame_is_larger_than_its_image_is_refused(mode: str, sequence: bool) -> None:
    # libavif would scale the frame to the size in `ispe`, after it has decoded it.
    image = Image.new(mode, (1600, 1200))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    frames = {"save_all": True, "append_images": [image]} if sequence else {}
    data = save(image, "AVIF", speed=10, exif=exif, **frames)
    size = struct.pack(">II", 1600, 1200)
    assert read_header(data).pixels == coded_pixels(data) == 1600 * 1200

    assert size in data
    with pytest.raises(ApiError) as caught:
        read_header(data.replace(size, struct.pack(">II", 64, 64)))

    assert caught.value.code == "image_undecodable"
