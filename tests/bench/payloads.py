"""The requests of the benchmarks. Every service gets the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from random import Random

from tests.bench.services import Payload
from tests.support.photographs import photo

SHORT_TEXT = "a photo of a cat"
WORDS = ("cat", "dog", "red", "house")


def texts(count: int = 1) -> Payload:
    """`count` short texts as JSON: one text of 7 tokens, or several that are slightly longer."""
    if count == 1:
        return _texts([SHORT_TEXT])
    return _texts([f"{SHORT_TEXT} number {index}" for index in range(count)])


def mixed(count: int = 64, part: int = 8) -> tuple[Payload, list[Payload]]:
    """Texts of 1 to 75 words: all in one request, and sorted by length in requests of `part` texts."""
    random = Random(0)
    captions = [" ".join(random.choices(WORDS, k=random.randint(1, 75))) for _ in range(count)]
    by_length = sorted(captions, key=lambda text: text.count(" "))
    return _texts(captions), [_texts(by_length[start : start + part]) for start in range(0, count, part)]


def upload(jpeg: bytes) -> Payload:
    """An image as a file in a form."""
    boundary = "embed-bench-0a1b2c3d"
    header = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = header.encode() + jpeg + f"\r\n--{boundary}--\r\n".encode()
    return Payload("/embed/image", f"multipart/form-data; boundary={boundary}", body)


def raw(jpeg: bytes) -> Payload:
    """An image as the whole body."""
    return Payload("/embed/image", "image/jpeg", jpeg)


def small_jpeg() -> bytes:
    """A photo of 640 x 480 pixels."""
    file = io.BytesIO()
    photo("motorcycle").crop((50, 10, 690, 490)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _texts(captions: Sequence[str]) -> Payload:
    return Payload("/embed/text", "application/json", json.dumps({"texts": captions}).encode())
