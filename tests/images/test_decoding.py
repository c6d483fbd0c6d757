"""Decoding untrusted bytes: a file is either decoded as open_clip would see it, or refused with a code."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from clip_embeddings.config import ImageSettings
from clip_embeddings.engine.preprocess import to_pixels
from clip_embeddings.errors import ApiError
from clip_embeddings.paths import ROOT
from model_cache.baking.torch_setup import import_open_clip
from tests.support.hostile_images import (
    DAMAGED,
    EXACT,
    OVERSIZED,
    decode,
    decode_error,
    ihdr,
    insert,
    png,
    save,
)
from tests.support.photographs import detailed_12mp_jpeg, photo, photos
from tests.support.preprocessing import CLIP, MEAN, STD

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF")


def rgb(image: Image.Image, position: tuple[int, int]) -> tuple[int, ...]:
    """The RGB values of one pixel."""
    value = image.convert("RGB").getpixel(position)
    assert isinstance(value, tuple)
    return value


# --- equal to open_clip and Pillow


ENCODINGS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "1", "P", "LA", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "1"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    ("format", "mode"), [(format, mode) for format, modes in ENCODINGS.items() for mode in modes]
)
def test_equals_open_clip_to_the_pixel(format: str, mode: str) -> None:
    import_open_clip()
    from open_clip.transform import image_transform

    transform: Callable[[Image.Image], object] = image_transform(224, is_train=False, mean=MEAN, std=STD)
    original = photo("logo").resize((300, 200)) if mode in ("LA", "RGBA", "P") else photo("rocket")
    for image in (original, original.resize((1, 1)), original.resize((640, 30))):
        data = save(image.quantize(99) if mode == "P" else image.convert(mode), format)
        with Image.open(io.BytesIO(data)) as opened:
            expected = np.asarray(transform(opened))
        np.testing.assert_array_equal(to_pixels(decode(data), CLIP), expected)


@pytest.mark.parametrize("name", photos())
def test_photo_files_equal_pillow(name: str) -> None:
    image = decode(photos()[name])
    assert image.mode == photo(name).mode
    assert image.tobytes() == photo(name).tobytes()


def test_progressive_jpeg_and_animated_gif_equal_pillow() -> None:
    chelsea = photo("chelsea")
    progressive = save(chelsea, "JPEG", progressive=True)
    assert decode(progressive).tobytes() == Image.open(io.BytesIO(progressive)).tobytes()
    frames = [photo("coins").quantize(8), photo("camera").resize((384, 303)).quantize(8)]
    animated = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animated).convert("RGB").tobytes() == frames[0].convert("RGB").tobytes()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_the_first_frame_of_an_animation_is_decoded(format: str) -> None:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    image = decode(save(red, format, save_all=True, append_images=[blue]))
    red_value, green_value, blue_value = rgb(image, (20, 15))
    assert red_value > 240
    assert green_value < 15
    assert blue_value < 15


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif_and_heic_keep_the_visible_pixels(format: str, mode: str) -> None:
    original = photo("logo").resize((320, 240)).convert(mode)
    image = decode(save(original, format, quality=95))
    assert image.size == original.size
    difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(original.convert("RGB"), int))
    visible = np.asarray(original.convert("RGBA"))[..., 3] > 250
    assert difference[visible].mean() < 4


# --- 16 bits


def test_sixteen_bit_gray_is_scaled_where_open_clip_clips() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    image = decode(save(Image.fromarray(ramp), "PNG"))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), ramp >> 8)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_color_keeps_the_high_byte(color_type: int, channels: int) -> None:
    values = np.random.RandomState(0).randint(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    image = decode(png(ihdr(7, 5, 16, color_type), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    assert image.mode == ("RGB" if color_type == 2 else "RGBA")
    expected = (values >> 8).astype(np.uint8)
    expected = expected[..., [0, 0, 0, 1]] if channels == 2 else expected
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_ten_bit_heic_becomes_eight_bits() -> None:
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 0x8000, "<u2").tobytes())
    file = io.BytesIO()
    deep.save(file, quality=90)
    image = decode(file.getvalue())
    assert image.mode == "RGB"
    assert abs(rgb(image, (32, 32))[0] - 128) <= 2


# --- orientation


def with_orientation(format: str, orientation: int) -> tuple[bytes, Image.Image]:
    """A file with the EXIF tag `orientation`, and the image that Pillow turns upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(photo("chelsea").resize((60, 40)), format, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        return data, ImageOps.exif_transpose(opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_unless_exact(format: str, orientation: int) -> None:
    data, upright = with_orientation(format, orientation)
    image = decode(data, ImageSettings())
    assert image.size == ((60, 40) if orientation < 5 else (40, 60))
    assert image.tobytes() == upright.tobytes()
    assert decode(data, EXACT).size == (60, 40)


def test_the_left_edge_of_a_rotated_file_becomes_the_top() -> None:
    # Orientation 6: the left edge of the file is the top of the image (CIPA DC-008 4.6.5).
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(save(image, "JPEG", exif=exif), ImageSettings())
    assert upright.size == (32, 64)
    assert rgb(upright, (16, 8))[0] > 200
    assert rgb(upright, (16, 56))[2] > 200


def test_heic_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(photo("chelsea").resize((64, 40)), "HEIF", exif=exif.tobytes())
    assert decode(data, ImageSettings()).size == decode(data, EXACT).size == (40, 64)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"garbage",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x7f\x06\0\0\0\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x00\0\0\0\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
        b"II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\0\0\0\0\x00\0\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_with_broken_exif_still_decodes(format: str, exif: bytes) -> None:
    prefix = b"Exif\0\0" if format == "JPEG" else b""
    assert decode(save(photo("coins"), format, exif=prefix + exif), ImageSettings()).size == (384, 303)


# --- reduced decoding


def test_reduced_decoding_of_a_phone_photo_stays_close_to_exact_decoding() -> None:
    reduced = decode(detailed_12mp_jpeg(), ImageSettings())
    exact = decode(detailed_12mp_jpeg(), EXACT)
    assert reduced.size == (1008, 756)
    assert exact.size == (4032, 3024)
    difference = np.abs(to_pixels(reduced, CLIP) - to_pixels(exact, CLIP)) * np.reshape(STD, (3, 1, 1)) * 255
    assert difference.mean() < 0.6  # of 255
    assert difference.max() < 8


@pytest.mark.parametrize(("size", "expected"), [((895, 896), (895, 896)), ((1792, 896), (896, 448))])
def test_reduced_decoding_keeps_twice_the_target(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert decode(save(Image.new("RGB", size), "JPEG"), ImageSettings()).size == expected


# --- refusals


@pytest.mark.parametrize(
    ("data", "description"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html>", "HTML"),
        (b"<html><body>404", "HTML"),
        (b'<?xml version="1.0"?><!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf<svg/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (save(Image.new("L", (4, 4)), "TIFF"), "TIFF"),
        (b'{"error": "no such picture"}', "JSON"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
        (b"\0\0\0\x0cftyp", "video"),
        (save(Image.new("L", (4, 4)), "ICO"), "not an image"),
        (save(Image.new("L", (4, 4)), "PPM"), "not an image"),
        (save(Image.new("L", (4, 4)), "JPEG2000"), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (bytes(1000), "not an image"),
        (b"RIFF\0\0\0\0AVI LIST", "not an image"),
    ],
)
def test_the_error_names_the_format_that_was_sent(data: bytes, description: str) -> None:
    error = decode_error(data)
    assert (error.status, error.code) == (422, "image_unsupported")
    assert description in error.message
    assert "send JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC" in error.message


@pytest.mark.parametrize("name", OVERSIZED)
def test_too_many_pixels_are_refused_before_decoding(name: str) -> None:
    error = decode_error(OVERSIZED[name])
    assert (error.status, error.code) == (413, "image_too_many_pixels")
    assert "50,000,000" in error.message


@pytest.mark.parametrize("format", FORMATS)
def test_the_pixel_limit_holds_for_every_format(format: str) -> None:
    data = save(Image.new("RGB", (100, 80)), format)
    assert decode(data, max_pixels=8000).size == (100, 80)
    error = decode_error(data, max_pixels=7999)
    assert error.message == (
        "The image has 100 x 80 pixels; accepted are at most 7,999 in all and 65,535 on a side."
    )


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name: str) -> None:
    error = decode_error(DAMAGED[name])
    assert (error.status, error.code) == (422, "image_undecodable")
    assert "damaged or incomplete" in error.message


def test_hostile_files_take_bounded_memory() -> None:
    # Peak memory never falls, so a process of its own excludes what other tests decoded.
    script = (
        "import resource\n"
        "from tests.support.hostile_images import DAMAGED, OVERSIZED, decode_error\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "for files in (OVERSIZED, DAMAGED):\n"
        "    before = peak()\n"
        "    for data in files.values(): decode_error(data)\n"
        "    print(peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    oversized, damaged = map(int, result.stdout.split())
    assert oversized < 30  # MiB
    # The largest take 5000 x 5000 pixels, three bytes stored in four, and 25 MB of run-length rows.
    assert damaged < 180


def test_markers_after_the_end_of_the_image_do_not_count_as_scans() -> None:
    progressive = save(photo("chelsea"), "JPEG", progressive=True)
    trailing = b"\xff\xda" * 1000
    assert decode(progressive + trailing).size == decode(progressive).size


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused(format: str) -> None:
    data = save(photo("chelsea").resize((90, 60)), format)
    for tenth in range(1, 10):
        cut = data[: len(data) * tenth // 10]
        assert decode_error(cut).code == "image_undecodable"


SIGNATURES = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WebP": b"RIFF\x00\x01\0\0WEBPVP8 ",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "AVIF": b"\0\0\0\x14ftypavif\0\0\0\0avif",
    "HEIC": b"\0\0\0\x14ftypheic\0\0\0\0heic",
}


@pytest.mark.parametrize("format", SIGNATURES)
def test_random_bytes_after_a_valid_signature_are_refused(format: str) -> None:
    generator = random.Random(format)
    for length in (0, 1, 20, 300, 5000):
        error = decode_error(SIGNATURES[format] + generator.randbytes(length))
        assert error.code in ("image_undecodable", "image_too_many_pixels")


def valid_files() -> list[bytes]:
    """Small files of every format, with the features that parsers treat specially."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    opaque, transparent = photo("chelsea").resize((40, 30)), photo("logo").resize((40, 30))
    frames = {"save_all": True, "append_images": [transparent.convert("RGB")]}
    return [
        save(opaque, "JPEG", exif=exif, progressive=True),
        save(opaque.convert("CMYK"), "JPEG"),
        save(opaque, "PNG", exif=exif, icc_profile=bytes(100), **frames),
        save(transparent.quantize(9), "PNG"),
        save(opaque, "WEBP", exif=exif, **frames),
        save(transparent, "WEBP", lossless=True),
        save(opaque.quantize(16), "GIF", **frames),
        save(opaque, "BMP"),
        save(opaque.quantize(16), "BMP"),
        save(opaque, "AVIF", exif=exif),
        save(transparent, "HEIF", exif=exif),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_are_decoded_or_refused_with_a_code() -> None:
    generator = random.Random(20)
    outcomes = {"decoded": 0, "image_undecodable": 0, "image_too_many_pixels": 0, "image_unsupported": 0}
    for valid in valid_files():
        for _ in range(80):
            data = bytearray(valid)
            for _ in range(generator.choice((1, 2, 5, 20))):
                # Headers are short and matter most: half of the damage goes there.
                position = generator.randrange(min(len(data), generator.choice((64, 400, len(data)))))
                data[position] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
            if generator.random() < 0.2:
                position = generator.randrange(len(data))
                data[position:position] = data[generator.randrange(len(data)) :][: generator.randrange(200)]
            try:
                image = decode(bytes(data), ImageSettings(), max_pixels=1_000_000)
            except ApiError as error:
                outcomes[error.code] += 1
            else:
                outcomes["decoded"] += 1
                assert image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
                assert to_pixels(image, CLIP).shape == (3, 224, 224)
    assert min(outcomes.values()) >= 10, outcomes


def test_warnings_of_pillow_are_silent_and_do_not_fail_an_image() -> None:
    # In a process of its own, because pytest puts its warning filters before those of the module.
    large_png = save(Image.new("L", (300, 200)), "PNG")
    unusual_files = [
        insert(large_png, 33, png((b"acTL", bytes(8)))[8:]),
        save(
            Image.new("L", (300, 200)),
            "JPEG",
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\x09\0\0\0",
        ),
        save(photo("logo").quantize(9), "PNG", transparency=bytes(range(9))),
    ]
    script = (
        "import sys\n"
        "from clip_embeddings.config import ImageSettings\n"
        "from clip_embeddings.images.decoding import decode_image\n"
        "for line in sys.stdin:\n"
        "    decode_image(bytes.fromhex(line), settings=ImageSettings(), max_pixels=250_000, target=224)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input="\n".join(data.hex() for data in unusual_files),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_parser_is_imported_only_for_its_own_format() -> None:
    script = (
        "import sys\n"
        "from clip_embeddings.config import ImageSettings\n"
        "from clip_embeddings.images.decoding import decode_image\n"
        "data = sys.stdin.buffer.read()\n"
        "decode_image(data, settings=ImageSettings(), max_pixels=10**6, target=224)\n"
        "late = {'pillow_heif', 'numpy', 'PIL.PngImagePlugin', 'PIL.AvifImagePlugin'}\n"
        "assert not late & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], input=photos()["rocket"], cwd=ROOT, check=True)
