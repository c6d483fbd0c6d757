"""Parses the image references of a request: a URL to fetch, an object to read, or the bytes themselves."""

from __future__ import annotations

import base64
import binascii

import msgspec

from clip_embeddings.errors import ApiError
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES

# Translates the URL-safe base64 alphabet (RFC 4648, section 5) to the standard one.
URLSAFE = str.maketrans("-_", "+/")


class ImageUrl(msgspec.Struct, frozen=True):
    """An http or https URL that has not been checked."""

    url: str


class ImageBytes(msgspec.Struct, frozen=True):
    """The bytes of an image file that has not been decoded."""

    data: bytes


class GcsObject(msgspec.Struct, frozen=True):
    """An object in Cloud Storage. Its bucket has not been checked against the allow-list."""

    bucket: str
    name: str


Source = ImageUrl | ImageBytes | GcsObject

SCHEMES = ("http", "https", "gs", "data")


def parse_url(value: object, max_bytes: int) -> Source:
    """Parse a string that must be a URL: http, https, gs or data.

    Raises:
        ApiError: 400 if it is not a string or has another scheme; otherwise as `parse_image`.
    """
    text = _text(value)
    if _scheme(text) not in SCHEMES:
        raise ApiError(
            400, "url_invalid", "This is no URL: it must start with http://, https://, gs:// or data:."
        )
    return parse_image(text, max_bytes)


def parse_image(value: object, max_bytes: int) -> Source:
    """Parse a string that is an http(s) or gs:// URL, a data URI or bare base64.

    Raises:
        ApiError: 400 if it has another form, 413 if it holds more than `max_bytes` bytes.
    """
    text = _text(value)
    scheme = _scheme(text)
    if scheme in ("http", "https"):
        return ImageUrl(text)
    if scheme == "data":
        return ImageBytes(_data_uri(text, max_bytes))
    if scheme == "gs":
        return _gcs_object(text)
    if scheme is not None:
        raise ApiError(
            400,
            "url_invalid",
            f"`{scheme}:` is not a scheme served here; use http://, https://, gs://, data: or bare base64.",
        )
    error = ApiError(
        400, "image_reference_invalid", "The image is neither a URL, nor a data URI, nor base64."
    )
    return ImageBytes(_base64(text, max_bytes, error))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ApiError(400, "image_not_a_string", "An image must be a string: a URL, a data URI or base64.")
    if not (text := value.strip()):
        raise ApiError(400, "image_empty", "The image is an empty string.")
    return text


def _scheme(text: str) -> str | None:
    scheme, colon, _ = text[:32].partition(":")
    if not colon or not scheme.isascii() or not scheme.replace("+", "").replace("-", "").isalnum():
        return None
    return scheme.lower()


def _gcs_object(text: str) -> GcsObject:
    bucket, _, name = text[len("gs://") :].partition("/")
    valid = text[:5].lower() == "gs://" and bucket and 0 < len(name.encode()) <= MAX_OBJECT_NAME_BYTES
    if not valid:
        raise ApiError(400, "url_invalid", "A gs:// URL must have the form gs://bucket/object.")
    return GcsObject(bucket, name)


def _data_uri(text: str, max_bytes: int) -> bytes:
    # RFC 2397: data:[<mediatype>][;base64],<data>. The media type is ignored, because the sender may claim
    # anything.
    head, comma, body = text.partition(",")
    error = ApiError(
        400, "data_uri_invalid", "A data URI must have the form data:image/jpeg;base64,... and hold base64."
    )
    if not comma or not head.lower().rstrip().endswith(";base64"):
        raise error
    return _base64(body, max_bytes, error)


def _base64(text: str, max_bytes: int, error: ApiError) -> bytes:
    """The bytes in `text`, standard or URL-safe base64. Raises `error` if it is neither."""
    compact = "".join(text.split()).translate(URLSAFE).rstrip("=")
    if len(compact) * 3 // 4 > max_bytes:
        raise ApiError(413, "image_too_large", f"The image has more than {max_bytes:,} bytes.")
    try:
        data = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise error from None
    if not data:
        raise ApiError(400, "image_empty", "The image has no bytes.")
    return data
