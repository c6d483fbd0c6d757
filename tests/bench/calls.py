"""What the services are asked. Every service gets the same bytes."""

from __future__ import annotations

import io
import json

from tests.bench.services import Call
from tests.photos import photo

SHORT_TEXT = "a photo of a cat"


def texts(count: int = 1) -> Call:
    """`count` short texts as JSON, one of 7 tokens or a few more."""
    wanted = [SHORT_TEXT] if count == 1 else [f"{SHORT_TEXT} number {index}" for index in range(count)]
    return Call("/embed/text", "application/json", json.dumps({"texts": wanted}).encode())


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
