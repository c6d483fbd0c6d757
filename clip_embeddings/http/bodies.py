"""Reading request bodies within limits: JSON, forms, raw bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError

MAX_FORM_FIELDS = 1000
# What the fields of a form may take beside their texts: werkzeug buffers part headers and preambles.
FORM_BYTES = 256 * 1024
# Parsed, a JSON value of two bytes takes up to 100: this many take at most 100 MB.
MAX_JSON_VALUES = 500_000
# gunicorn keeps up to a mebibyte that it has received ahead, and copies what is left of it on every read:
# in the steps of 64 KiB that werkzeug takes, a large photo is copied eight times over.
READ_BYTES = 1024 * 1024


def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        CallerError: 400 if it is not one, 413 if it is too large.
    """
    data = read_bytes(request, limits.request_bytes)
    # Some of these are inside strings: the bound leaves ample room for that.
    if sum(map(data.count, (b",", b"[", b"{"))) > max(MAX_JSON_VALUES, 100 * limits.items):
        raise ApiError(413, "json_too_complex", "The body holds far more JSON values than a request needs.")
    try:
        # RFC 8259, section 8.1, lets a parser ignore a byte order mark. Windows tools write one.
        body = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "json_invalid", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "json_not_an_object", 'The body must be a JSON object: {"name": value, ...}.')
    return body


def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The raw body.

    Raises:
        CallerError: 413 above `max_bytes`, 400 if the client broke off, 408 if it fell silent.
    """
    _refuse_large(request, max_bytes)
    # One more than is allowed: a body of undeclared length is read up to here and no further.
    request.max_content_length = max_bytes + 1
    data = bytearray()
    try:
        while len(data) <= max_bytes and (part := request.stream.read(READ_BYTES)):
            data += part
    except Exception as error:
        # gunicorn has exceptions of its own for every way to write chunks wrongly.
        raise _broken_off(request, error) from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if len(data) < (request.content_length or 0):
        raise _broken_off(request)
    return bytes(data)


def read_form(request: Request, limits: Limits) -> Mapping[str, str]:
    """The text fields of a form, URL-encoded or multipart. Raises CallerError 400 or 413."""
    if request.mimetype == "multipart/form-data":
        return _multipart(request, limits)[0]
    # A character takes up to twelve bytes here: four of UTF-8, each as %XX.
    data = read_bytes(request, min(limits.request_bytes, FORM_BYTES + 12 * limits.text_chars))
    try:
        fields = parse_qsl(
            data.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except UnicodeError:
        raise _unreadable("it is not UTF-8") from None
    except ValueError:
        raise _unreadable(f"it has more than {MAX_FORM_FIELDS:,} fields") from None
    return MultiDict(fields)


def read_file(request: Request, limits: Limits, name: str) -> FileStorage:
    """The file field `name` of a multipart form. Raises CallerError 400 or 413."""
    file = _multipart(request, limits)[1].get(name)
    if file is None:
        raise ApiError(
            400,
            "field_missing",
            f"The form has no file in the field `{name}`; with curl: -F {name}=@photo.jpg.",
        )
    return file


def set_read_timeout(request: Request, seconds: float | None) -> None:
    """Wait no longer than `seconds` for the next bytes of the body; None waits as long as it takes.

    A phone that loses its network in the middle of an upload says nothing, and would keep a thread for ever.
    """
    # gunicorn's own; other servers have none.
    if connection := request.environ.get("gunicorn.socket"):
        connection.settimeout(seconds)


def drain_body(request: Request) -> None:
    """Read what is left of the body, as far as its limit, without keeping it.

    A client that still sends would find its connection broken instead of the reply. (functions-framework does
    the same, but keeps it all in memory and makes a 500 of whatever goes wrong.)
    """
    try:
        while request.stream.read(64 * 1024):
            pass
    except Exception:  # noqa: S110
        # Too large or broken off: as far as this request is concerned, read.
        pass
    request.stream = io.BytesIO()


def _multipart(request: Request, limits: Limits) -> tuple[Mapping[str, str], Mapping[str, FileStorage]]:
    if "boundary" not in request.mimetype_params:
        raise _unreadable("its Content-Type has no boundary; leave that header to your HTTP client")
    _refuse_large(request, limits.request_bytes)
    text_bytes = FORM_BYTES + 4 * limits.text_chars
    parser = FormDataParser(
        stream_factory=_in_memory,
        max_form_memory_size=text_bytes,
        max_form_parts=MAX_FORM_FIELDS,
        silent=False,
    )
    # The parser reads in small steps; see READ_BYTES.
    stream = io.BufferedReader(request.stream, READ_BYTES)  # type: ignore[type-var]
    try:
        _, fields, files = parser.parse(
            stream, request.mimetype, request.content_length, request.mimetype_params
        )
    except RequestEntityTooLarge:
        raise ApiError(
            413,
            "request_too_large",
            f"The form is too large: {limits.request_bytes:,} bytes, {text_bytes:,} of them text, "
            f"and {MAX_FORM_FIELDS:,} parts are allowed.",
        ) from None
    except ValueError:
        raise _unreadable("it is not a complete multipart form") from None
    except Exception as error:
        raise _broken_off(request, error) from None
    return fields, files


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> io.BytesIO:
    # The body's limit bounds it, and in the cloud a temporary file is memory too.
    return io.BytesIO()


def _refuse_large(request: Request, max_bytes: int) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "encoding_unsupported", "Send the body without Content-Encoding.")
    # A declared length is refused before a byte is read, an undeclared one while it is.
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _unreadable(why: str) -> ApiError:
    return ApiError(400, "body_unreadable", f"The body could not be read: {why}.")


def _broken_off(request: Request, error: Exception | None = None) -> ApiError:
    # Nothing more is to be had from it, which `discard` would otherwise wait for.
    request.stream = io.BytesIO()
    # werkzeug puts an exception of its own around what the socket says.
    if error and isinstance(error.__context__, TimeoutError):
        return ApiError(408, "body_timeout", "The body stopped coming; send the request again.")
    return _unreadable("it ended early")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The body has more than {max_bytes:,} bytes.")
