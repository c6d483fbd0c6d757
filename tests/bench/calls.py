"""What the services are asked. Every service gets the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from random import Random

from tests.bench.services import Call
from tests.support.photographs import photo

SHORT_TEXT = "a photo of a cat"
WORDS = ("cat", "dog", "red", "house")


def texts(count: int = 1) -> Call:
    """`count` short texts as JSON, one of 7 tokens or a few more."""
    wanted = [SHORT_TEXT] if count == 1 else [f"{SHORT_TEXT} number {index}" for index in range(count)]
    return _texts(wanted)


def mixed(count: int = 64, part: int = 8) -> tuple[Call, list[Call]]:
    """Texts of 1 to 75 words: in one request, and sorted by length in several."""
    random = Random(0)
    wanted = [" ".join(random.choices(WORDS, k=random.randint(1, 75))) for _ in range(count)]
    in_order = sorted(wanted, key=lambda text: text.count(" "))
    return _texts(wanted), [_texts(in_order[start : start + part]) for start in range(0, count, part)]


def upload(jpeg: bytes) -> Call:
    """A picture as a form's file."""
    boundary = "embed-bench-0a1b2c3d"
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + jpeg + f"\r\n--{boundary}--\r\n".encode()
    return Call("/embed/image", f"multipart/form-data; boundary={boundary}", body)


def raw(jpeg: bytes) -> Call:
    """A picture as the body itself."""
    return Call("/embed/image", "image/jpeg", jpeg)


def small_jpeg() -> bytes:
    """A photo of 640 x 480 pixels."""
    file = io.BytesIO()
    photo("motorcycle").crop((50, 10, 690, 490)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _texts(wanted: Sequence[str]) -> Call:
    return Call("/embed/text", "application/json", json.dumps({"texts": wanted}).encode())
