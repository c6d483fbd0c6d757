"""What an image reference in a request means: a URL to fetch, or bytes that came along."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from clip_embeddings.errors import ApiError

URLSAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class ImageUrl:
    """An http or https URL, not judged yet."""

    url: str


@dataclass(frozen=True)
class ImageBytes:
    """Image bytes, not decoded yet."""

    data: bytes


@dataclass(frozen=True)
class GcsObject:
    """An object in Cloud Storage, in a bucket that is not judged yet."""

    bucket: str
    name: str


Source = ImageUrl | ImageBytes | GcsObject

SCHEMES = ("http", "https", "gs", "data")


def parse_url(value: object, max_bytes: int) -> Source:
    """A string that must be a URL: http, https, gs or data.

    Raises:
        CallerError: not a string (400), another scheme (400), or a data URI as in `parse_image`.
    """
    text = _text(value)
    if _scheme(text) not in SCHEMES:
        raise ApiError(
            400, "url_invalid", "This is no URL: it must start with http://, https://, gs:// or data:."
        )
    return parse_image(text, max_bytes)


def parse_image(value: object, max_bytes: int) -> Source:
    """A string that is an http(s) or gs:// URL, a data URI or bare base64.

    Raises:
        CallerError: 400 if it is none of them, 413 if its bytes are more than `max_bytes`.
    """
    text = _text(value)
    scheme = _scheme(text)
    if scheme in ("http", "https"):
        return ImageUrl(text)
    if scheme == "data":
        return ImageBytes(_data_uri(text, max_bytes))
    if scheme == "gs":
        return _stored(text)
    if scheme is not None:
        raise ApiError(
            400,
            "url_invalid",
            f"`{scheme}:` is not a scheme served here; use http://, https://, gs://, data: or bare base64.",
        )
    wrong = ApiError(
        400, "image_reference_invalid", "The image is neither a URL, nor a data URI, nor base64."
    )
    return ImageBytes(_base64(text, max_bytes, wrong))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ApiError(400, "image_not_a_string", "An image must be a string: a URL, a data URI or base64.")
    if not (text := value.strip()):
        raise ApiError(400, "image_empty", "The image is an empty string.")
    return text


def _scheme(text: str) -> str | None:
    head, colon, _ = text[:32].partition(":")
    if not colon or not head.isascii() or not head.replace("+", "").replace("-", "").isalnum():
        return None
    return head.lower()


def _stored(text: str) -> GcsObject:
    bucket, _, name = text[len("gs://") :].partition("/")
    # Object names have at most 1,024 bytes: https://cloud.google.com/storage/docs/objects#naming
    if not text[:5].lower() == "gs://" or not bucket or not name or len(name.encode()) > 1024:
        raise ApiError(400, "url_invalid", "A gs:// URL must have the form gs://bucket/object.")
    return GcsObject(bucket, name)


def _data_uri(text: str, max_bytes: int) -> bytes:
    # RFC 2397: data:[<mediatype>][;base64],<data>. The media type is the sender's claim: ignored.
    head, comma, body = text.partition(",")
    wrong = ApiError(
        400, "data_uri_invalid", "A data URI must have the form data:image/jpeg;base64,... and hold base64."
    )
    if not comma or not head.lower().rstrip().endswith(";base64"):
        raise wrong
    return _base64(body, max_bytes, wrong)


def _base64(text: str, max_bytes: int, wrong: ApiError) -> bytes:
    compact = "".join(text.split()).translate(URLSAFE).rstrip("=")
    if len(compact) * 3 // 4 > max_bytes:
        raise ApiError(413, "image_too_large", f"The image has more than {max_bytes:,} bytes.")
    try:
        data = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if not data:
        raise ApiError(400, "image_empty", "The image has no bytes.")
    return data
