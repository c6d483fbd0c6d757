"""Decoding untrusted bytes: what is accepted, what is refused, and that nothing else ever happens."""

import io
import random
import struct
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from clip_embeddings.config import ROOT, ImageSettings
from clip_embeddings.engine.manifest import Preprocess
from clip_embeddings.engine.preprocess import to_pixels
from clip_embeddings.errors import ApiError
from clip_embeddings.images.decoding import decode_image
from model_cache.baking.torch_setup import import_open_clip
from tests.support.photographs import detailed_12mp_jpeg, photo, photos

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP = Preprocess((224, 224), MEAN, STD)
EXACT = ImageSettings(exif=False, exact=True)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF")

pillow_heif.register_heif_opener()


def decode(data: bytes, settings: ImageSettings = EXACT, max_pixels: int = 50_000_000) -> Image.Image:
    return decode_image(data, settings=settings, max_pixels=max_pixels, target=224)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refusal(data: bytes, max_pixels: int = 50_000_000) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(data, ImageSettings(), max_pixels)
    assert caught.value.message.endswith(".")
    # An error that waits for its place in the reply must not keep pixels waiting with it.
    assert caught.value.__context__ is None
    if caught.value.code == "image_undecodable":
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        assert not [name for frame in frames for name in frame.f_locals if name == "image"]
    return caught.value


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    palette = bytes(range(256)) * 4 if bits == 8 else b""
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + body


def inserted(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at:]


# --- what open_clip sees


ENCODINGS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "1", "P", "LA", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "1"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("format", "mode"), [(f, m) for f, modes in ENCODINGS.items() for m in modes])
def test_equals_open_clip_to_the_pixel(format: str, mode: str) -> None:
    import_open_clip()
    from open_clip.transform import image_transform

    transform: Callable[[Image.Image], object] = image_transform(224, is_train=False, mean=MEAN, std=STD)
    picture = photo("logo").resize((300, 200)) if mode in ("LA", "RGBA", "P") else photo("rocket")
    for image in (picture, picture.resize((1, 1)), picture.resize((640, 30))):
        data = saved(image.quantize(99) if mode == "P" else image.convert(mode), format)
        with Image.open(io.BytesIO(data)) as opened:
            expected = np.asarray(transform(opened))
        np.testing.assert_array_equal(to_pixels(decode(data), CLIP), expected)


@pytest.mark.parametrize("name", photos())
def test_photo_files_equal_pillow(name: str) -> None:
    image = decode(photos()[name])
    assert image.mode == photo(name).mode
    assert image.tobytes() == photo(name).tobytes()


def test_interlaced_png_and_progressive_jpeg_and_cut_gif() -> None:
    chelsea = photo("chelsea")
    progressive = saved(chelsea, "JPEG", progressive=True)
    assert decode(progressive).tobytes() == Image.open(io.BytesIO(progressive)).tobytes()
    frames = [photo("coins").quantize(8), photo("camera").resize((384, 303)).quantize(8)]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animated).convert("RGB").tobytes() == frames[0].convert("RGB").tobytes()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_first_frame_of_an_animation(format: str) -> None:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    image = decode(saved(red, format, save_all=True, append_images=[blue]))
    r, g, b = image.convert("RGB").getpixel((20, 15))
    assert (r > 240, g < 15, b < 15) == (True, True, True)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif_and_heic_round_trip(format: str, mode: str) -> None:
    original = photo("logo").resize((320, 240)).convert(mode)
    image = decode(saved(original, format, quality=95))
    assert image.size == original.size
    difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(original.convert("RGB"), int))
    visible = np.asarray(original.convert("RGBA"))[..., 3] > 250
    assert difference[visible].mean() < 4


# --- 16 bits


def test_scales_sixteen_bit_grey_where_open_clip_clips() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    image = decode(saved(Image.fromarray(ramp), "PNG"))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), ramp >> 8)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_takes_the_high_byte_of_sixteen_bit_colour(colour: int, channels: int) -> None:
    values = np.random.RandomState(0).randint(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    image = decode(png(ihdr(7, 5, 16, colour), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    assert image.mode == ("RGB" if colour == 2 else "RGBA")
    expected = (values >> 8).astype(np.uint8)
    expected = expected[..., [0, 0, 0, 1]] if channels == 2 else expected
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_ten_bit_heic_becomes_eight_bits() -> None:
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 0x8000, "<u2").tobytes())
    file = io.BytesIO()
    deep.save(file, quality=90)
    image = decode(file.getvalue())
    assert image.mode == "RGB"
    assert abs(image.getpixel((32, 32))[0] - 128) <= 2


# --- orientation


def turned(format: str, orientation: int) -> tuple[bytes, Image.Image]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo("chelsea").resize((60, 40)), format, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        return data, ImageOps.exif_transpose(opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_the_picture_upright(format: str, orientation: int) -> None:
    data, upright = turned(format, orientation)
    image = decode(data, ImageSettings())
    assert image.size == ((60, 40) if orientation < 5 else (40, 60))
    assert image.tobytes() == upright.tobytes()
    assert decode(data, EXACT).size == (60, 40)


def test_reads_the_mirrored_corner_where_exif_says() -> None:
    # Orientation 6: the file's left edge is the picture's top (CIPA DC-008 4.6.5).
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(saved(image, "JPEG", exif=exif), ImageSettings())
    assert upright.size == (32, 64)
    assert upright.getpixel((16, 8))[0] > 200
    assert upright.getpixel((16, 56))[2] > 200


def test_heic_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo("chelsea").resize((64, 40)), "HEIF", exif=exif.tobytes())
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
def test_broken_exif_does_not_cost_a_good_picture(format: str, exif: bytes) -> None:
    prefix = b"Exif\0\0" if format == "JPEG" else b""
    assert decode(saved(photo("coins"), format, exif=prefix + exif), ImageSettings()).size == (384, 303)


# --- reduced decoding


def test_draft_of_a_phone_photo_stays_near_the_exact_path() -> None:
    drafted = decode(detailed_12mp_jpeg(), ImageSettings())
    exact = decode(detailed_12mp_jpeg(), EXACT)
    assert drafted.size == (1008, 756)
    assert exact.size == (4032, 3024)
    difference = np.abs(to_pixels(drafted, CLIP) - to_pixels(exact, CLIP)) * np.reshape(STD, (3, 1, 1)) * 255
    assert difference.mean() < 0.6  # of 255
    assert difference.max() < 8


@pytest.mark.parametrize(("size", "expected"), [((895, 896), (895, 896)), ((1792, 896), (896, 448))])
def test_draft_keeps_twice_the_target(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert decode(saved(Image.new("RGB", size), "JPEG"), ImageSettings()).size == expected


# --- refusals


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html>", "HTML"),
        (b"<html><body>404", "HTML"),
        (b'<?xml version="1.0"?><!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf<svg/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (saved(Image.new("L", (4, 4)), "TIFF"), "TIFF"),
        (b'{"error": "no such picture"}', "JSON"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
        (b"\0\0\0\x0cftyp", "video"),
        (saved(Image.new("L", (4, 4)), "ICO"), "not an image"),
        (saved(Image.new("L", (4, 4)), "PPM"), "not an image"),
        (saved(Image.new("L", (4, 4)), "JPEG2000"), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (bytes(1000), "not an image"),
        (b"RIFF\0\0\0\0AVI LIST", "not an image"),
    ],
)
def test_says_what_else_it_is(data: bytes, what: str) -> None:
    error = refusal(data)
    assert (error.status, error.code) == (422, "image_unsupported")
    assert what in error.message
    assert "send JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC" in error.message


GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0)
OVERSIZED = {
    "png": png(ihdr(30_000, 30_000), (b"IDAT", b"")),
    "png, little over": png(ihdr(7072, 7071), (b"IDAT", b"")),
    "png, one long side": png(ihdr(1, 65_536), (b"IDAT", b"")),
    "gif screen": saved(Image.new("L", (4, 4)), "GIF").replace(b"\x04\0\x04\0", b"\xff\xff\xff\xff", 1),
    "gif frame": GIF_HEAD + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x08\0",
    "gif disposal": GIF_HEAD
    + b"!\xf9\x04\x08\0\0\0\0,"
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    + b"\x08\0",
    "bmp": bmp(100_000, 100_000),
    "bmp upside down": bmp(100_000, -100_000),
    "bmp negative width": bmp(-2, 5),
    "bmp run-length": bmp(60_000, 60_000, 8, 1),
    "jpeg": saved(Image.new("L", (8, 8)), "JPEG").replace(
        b"\x08\0\x08\0\x08\x01", b"\x08\xff\xff\xff\xff\x01"
    ),
    "webp": saved(
        Image.new("RGBA", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    ).replace(b"\x07\0\0\x07\0\0", b"\xff\xff\0\xff\xff\0", 1),
    "avif": saved(Image.new("RGB", (8, 8)), "AVIF").replace(
        b"ispe\0\0\0\0\0\0\0\x08\0\0\0\x08", b"ispe\0\0\0\0\0\0\x40\0\0\0\x40\0"
    ),
    "heic": saved(Image.new("RGB", (64, 64)), "HEIF").replace(
        b"ispe\0\0\0\0\0\0\0\x40\0\0\0\x40", b"ispe\0\0\0\0\0\0\x40\0\0\0\x40\0"
    ),
}


@pytest.mark.parametrize("name", OVERSIZED)
def test_refuses_too_many_pixels_before_decoding(name: str) -> None:
    error = refusal(OVERSIZED[name])
    assert (error.status, error.code) == (413, "image_too_many_pixels")
    assert "50,000,000" in error.message


@pytest.mark.parametrize("format", FORMATS)
def test_the_limit_counts_pixels_of_every_format(format: str) -> None:
    data = saved(Image.new("RGB", (100, 80)), format)
    assert decode(data, max_pixels=8000).size == (100, 80)
    error = refusal(data, max_pixels=7999)
    assert error.message == (
        "The image has 100 x 80 pixels; accepted are at most 7,999 in all and 65,535 on a side."
    )


BOMB = zlib.compress(bytes(20 * 2**20), 9)
SMALL_JPEG = saved(Image.new("L", (8, 8)), "JPEG")
SMALL_PNG = saved(Image.new("L", (8, 8)), "PNG")
EXTRA_CHUNK = b"\0\0\0\0prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
DAMAGED = {
    "png, no width": png(ihdr(0, 5), (b"IDAT", b"")),
    "png, profile bomb": png(ihdr(8, 8), (b"iCCP", b"x\0\0" + BOMB), (b"IDAT", b"")),
    "png, text bomb": png(ihdr(8, 8), (b"zTXt", b"x\0\0" + BOMB), (b"IDAT", b"")),
    "png, too few rows": png(ihdr(5000, 5000), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
    "png, a million chunks": inserted(SMALL_PNG, 33, EXTRA_CHUNK * 400_000),
    "jpeg, a million segments": inserted(SMALL_JPEG, 2, b"\xff\xe5\0\x02" * 400_000),
    "jpeg, junk": inserted(SMALL_JPEG, 20, bytes(800_000)),
    "jpeg, a thousand scans": SMALL_JPEG[:-2] + SMALL_JPEG[SMALL_JPEG.find(b"\xff\xda") : -2] * 1000,
    "gif, a million comments": GIF_HEAD + b"!\xfe" + b"\x01a" * 800_000,
    "gif, no frame": GIF_HEAD + b";",
    "bmp, run-length": bmp(5000, 5000, 8, 1, b"\x01\x02" * 400_000),
    "bmp, no height": bmp(5, 0),
    "webp, head only": b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(20),
    "avif, head only": b"\0\0\0\x14ftypavif\0\0\0\0avif",
    "heic, head only": b"\0\0\0\x14ftypheic\0\0\0\0mif1",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_refuses_damage(name: str) -> None:
    error = refusal(DAMAGED[name])
    assert (error.status, error.code) == (422, "image_undecodable")
    assert "damaged or incomplete" in error.message


def test_bombs_take_bounded_memory() -> None:
    # Peak memory never falls, so what was decoded before must not count.
    script = (
        "import resource\n"
        "from tests.images.test_decoding import DAMAGED, OVERSIZED, refusal\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "for bombs in (OVERSIZED, DAMAGED):\n"
        "    before = peak()\n"
        "    for data in bombs.values(): refusal(data)\n"
        "    print(peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    oversized, damaged = map(int, result.stdout.split())
    assert oversized < 30  # MiB
    # The largest are 5000 x 5000 pixels of three bytes in four, and 25 MB of run-length rows.
    assert damaged < 180


def test_many_scans_are_told_from_bytes_behind_the_picture() -> None:
    progressive = saved(photo("chelsea"), "JPEG", progressive=True)
    film = b"\xff\xda" * 1000
    assert decode(progressive + film).size == decode(progressive).size


@pytest.mark.parametrize("format", FORMATS)
def test_truncation_at_every_tenth(format: str) -> None:
    data = saved(photo("chelsea").resize((90, 60)), format)
    for tenth in range(1, 10):
        cut = data[: len(data) * tenth // 10]
        assert refusal(cut).code == "image_undecodable"


MAGIC = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WebP": b"RIFF\x00\x01\0\0WEBPVP8 ",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "AVIF": b"\0\0\0\x14ftypavif\0\0\0\0avif",
    "HEIC": b"\0\0\0\x14ftypheic\0\0\0\0heic",
}


@pytest.mark.parametrize("kind", MAGIC)
def test_random_bytes_behind_the_right_magic(kind: str) -> None:
    source = random.Random(kind)
    for length in (0, 1, 20, 300, 5000):
        error = refusal(MAGIC[kind] + source.randbytes(length))
        assert error.code in ("image_undecodable", "image_too_many_pixels")


def seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    picture, clear = photo("chelsea").resize((40, 30)), photo("logo").resize((40, 30))
    frames = {"save_all": True, "append_images": [clear.convert("RGB")]}
    return [
        saved(picture, "JPEG", exif=exif, progressive=True),
        saved(picture.convert("CMYK"), "JPEG"),
        saved(picture, "PNG", exif=exif, icc_profile=bytes(100), **frames),
        saved(clear.quantize(9), "PNG"),
        saved(picture, "WEBP", exif=exif, **frames),
        saved(clear, "WEBP", lossless=True),
        saved(picture.quantize(16), "GIF", **frames),
        saved(picture, "BMP"),
        saved(picture.quantize(16), "BMP"),
        saved(picture, "AVIF", exif=exif),
        saved(clear, "HEIF", exif=exif),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_decode_or_are_refused_and_nothing_else() -> None:
    source = random.Random(20)
    outcomes = {"decoded": 0, "image_undecodable": 0, "image_too_many_pixels": 0, "image_unsupported": 0}
    for seed in seeds():
        for _ in range(80):
            data = bytearray(seed)
            for _ in range(source.choice((1, 2, 5, 20))):
                # Headers are short and decide most: half of the damage goes there.
                at = source.randrange(min(len(data), source.choice((64, 400, len(data)))))
                data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
            if source.random() < 0.2:
                at = source.randrange(len(data))
                data[at:at] = data[source.randrange(len(data)) :][: source.randrange(200)]
            try:
                image = decode(bytes(data), ImageSettings(), max_pixels=1_000_000)
            except ApiError as error:
                outcomes[error.code] += 1
            else:
                outcomes["decoded"] += 1
                assert image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
                assert to_pixels(image, CLIP).shape == (3, 224, 224)
    assert min(outcomes.values()) >= 10, outcomes


def test_warnings_neither_escape_nor_fail_a_good_picture() -> None:
    # An own process, because pytest puts its filters before those of the module under test.
    big = saved(Image.new("L", (300, 200)), "PNG")
    odd = [
        inserted(big, 33, png((b"acTL", bytes(8)))[8:]),
        saved(
            Image.new("L", (300, 200)),
            "JPEG",
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\x09\0\0\0",
        ),
        saved(photo("logo").quantize(9), "PNG", transparency=bytes(range(9))),
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
        input="\n".join(data.hex() for data in odd),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_heif_and_other_parsers_are_imported_only_when_needed() -> None:
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
