"""Reads request bodies within limits: JSON, forms, files, raw bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import Body, MultipartForm, UploadedFile
from clip_embeddings.protocols.items import validate

MAX_FORM_FIELDS = 1000
# Bytes allowed for the framing of a form, on top of its texts: werkzeug buffers part headers and preambles.
FORM_BYTES = 256 * 1024
# A JSON value of two bytes takes up to 100 bytes once parsed, so this many take at most 100 MB.
MAX_JSON_VALUES = 500_000
# gunicorn may have buffered up to 1 MiB, and copies what remains of it on every read. In
# werkzeug's steps of 64 KiB, a large photo would be copied eight times.
READ_BYTES = 1024 * 1024


class JsonReader:
    """The body of a request as JSON, read and parsed once, when it is first needed."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._value: Mapping[str, Any] | None = None

    def get(self) -> Mapping[str, Any]:
        """The JSON object. Raises ApiError as `read_json`."""
        if self._value is None:
            self._value = read_json(self._request, self._limits)
        return self._value


def read_body(request: Request, body: Body, limits: Limits, json: JsonReader) -> Any:
    """The request's body as `body` describes it: an instance of its struct, a file, a form, or bytes.

    Raises:
        ApiError: 400 if it does not match, 408 if it stopped arriving, 413 if it is too large, 415 if it has
            a Content-Encoding.
    """
    if body.kind == "bytes":
        return read_bytes(request, limits.image_bytes)
    if body.kind == "file":
        return read_file(request, limits, body.file_fields)
    if body.kind == "multipart":
        return read_multipart(request, limits)
    try:
        if body.kind == "form":
            value: Mapping[str, Any] = dict(read_form(request, limits))
        else:
            value = json.get()
        return validate(value, body.schema, body.hint)
    except ApiError as error:
        if error.status != 400 or body.invalid_status == 400:
            raise
        raise ApiError(body.invalid_status, error.code, error.message, where=error.where) from None


def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 400 if it is not one, 413 if it is too large.
    """
    data = read_bytes(request, limits.request_bytes)
    # Some of these characters are inside strings; the bound leaves ample room for that.
    if sum(map(data.count, (b",", b"[", b"{"))) > max(MAX_JSON_VALUES, 100 * limits.items):
        raise ApiError(413, "json_too_complex", "The body holds far more JSON values than a request needs.")
    try:
        # RFC 8259, section 8.1, lets a parser ignore a byte order mark, which Windows tools write.
        body = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "json_invalid", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "json_not_an_object", 'The body must be a JSON object: {"name": value, ...}.')
    return body


def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The raw body.

    Raises:
        ApiError: 413 above `max_bytes`, 400 if the client disconnected, 408 if the body stopped arriving.
    """
    _refuse_large(request, max_bytes)
    # One byte above the limit, so that a body of undeclared length is read just far enough to be refused.
    request.max_content_length = max_bytes + 1
    data = bytearray()
    try:
        while len(data) <= max_bytes and (part := request.stream.read(READ_BYTES)):
            data += part
    except Exception as error:
        # gunicorn has its own exceptions for malformed chunks.
        raise _incomplete(request, error) from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if len(data) < (request.content_length or 0):
        raise _incomplete(request)
    return bytes(data)


def read_form(request: Request, limits: Limits) -> Mapping[str, str]:
    """The text fields of a form, URL-encoded or multipart. Raises ApiError 400 or 413."""
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


def read_file(request: Request, limits: Limits, names: Sequence[str]) -> UploadedFile:
    """The file in the first of the fields `names` that a multipart form has. Raises ApiError 400 or 413."""
    files = _multipart(request, limits)[1]
    for name in names:
        if (file := files.get(name)) is not None:
            return _uploaded_file(file, limits)
    fields = " or ".join(f"`{name}`" for name in names)
    message = f"The form has no file in the field {fields}; with curl: -F {names[0]}=@photo.jpg."
    raise ApiError(400, "field_missing", message)


def read_multipart(request: Request, limits: Limits) -> MultipartForm:
    """A multipart form as a whole. Raises ApiError 400 or 413."""
    fields, files = _multipart(request, limits)
    return MultipartForm(
        fields=dict(fields), files={name: _uploaded_file(file, limits) for name, file in files.items()}
    )


def _uploaded_file(file: FileStorage, limits: Limits) -> UploadedFile:
    data = file.stream.read(limits.image_bytes + 1)
    if len(data) > limits.image_bytes:
        raise ApiError(413, "image_too_large", f"The image has more than {limits.image_bytes:,} bytes.")
    if not data:
        raise ApiError(400, "image_empty", "The uploaded file is empty.")
    return UploadedFile(file.filename or "", data)


def set_read_timeout(request: Request, seconds: float | None) -> None:
    """Set the timeout, in seconds, of each read from the connection; None disables it.

    A phone that loses its network during an upload sends nothing more, and would occupy a thread forever.
    """
    # Set by gunicorn; other servers have no such entry.
    if connection := request.environ.get("gunicorn.socket"):
        connection.settimeout(seconds)


def drain_body(request: Request) -> None:
    """Read the rest of the body, up to its limit, and discard it.

    A client that is still sending would otherwise see a broken connection instead of the reply.
    (functions-framework does the same, but keeps everything in memory and answers 500 on any error.)
    """
    try:
        while request.stream.read(64 * 1024):
            pass
    except Exception:  # noqa: S110
        # Too large, or the client disconnected: there is nothing more to read.
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
    # The parser reads in small steps: see READ_BYTES.
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
        raise _incomplete(request, error) from None
    return fields, files


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> io.BytesIO:
    # The limit of the body bounds its size. In the cloud, a temporary file would be in memory too.
    return io.BytesIO()


def _refuse_large(request: Request, max_bytes: int) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "encoding_unsupported", "Send the body without Content-Encoding.")
    # A declared length is refused before a byte is read, an undeclared one during the reading.
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _unreadable(why: str) -> ApiError:
    return ApiError(400, "body_unreadable", f"The body could not be read: {why}.")


def _incomplete(request: Request, error: Exception | None = None) -> ApiError:
    # Nothing more will arrive; `drain_body` must not wait for it.
    request.stream = io.BytesIO()
    # werkzeug wraps the exception of the socket.
    if error and isinstance(error.__context__, TimeoutError):
        return ApiError(408, "body_timeout", "The body stopped coming; send the request again.")
    return _unreadable("it ended early")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The body has more than {max_bytes:,} bytes.")
