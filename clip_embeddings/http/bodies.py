"""Reads request bodies within limits: JSON, forms, files, raw bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.parsing_memory import (
    JSON_VALUE_BYTES,
    UNCOUNTED,
    ParsingMemory,
    json_bytes,
    never_fits,
    no_room,
)
from clip_embeddings.protocols.base import Body, MultipartForm, UploadedFile
from clip_embeddings.protocols.items import validate
from clip_embeddings.server.body import Arrival, BufferedBody

MAX_FORM_FIELDS = 1000
# Bytes allowed for the framing of a form, on top of its texts: werkzeug buffers part headers and preambles.
FORM_BYTES = 256 * 1024
# A JSON value of two bytes takes up to 100 bytes once parsed, so this many take at most 100 MB.
MAX_JSON_VALUES = 500_000
# Where the server has not read the body already, and where a form is parsed: in werkzeug's steps of 64 KiB, a
# large photo would take many more calls.
READ_BYTES = 1024 * 1024


class JsonReader:
    """The body of a request as JSON, read and parsed once, when it is first needed."""

    def __init__(self, request: Request, limits: Limits, memory: ParsingMemory) -> None:
        self._request = request
        self._limits = limits
        self.memory = memory
        self._value: Mapping[str, Any] | None = None

    def get(self) -> Mapping[str, Any]:
        """The JSON object. Raises ApiError as `read_json`."""
        if self._value is None:
            self._value = read_json(self._request, self._limits, self.memory)
        return self._value


def read_body(request: Request, body: Body, limits: Limits, json: JsonReader) -> Any:
    """The request's body as `body` describes it: an instance of its struct, a file, a form, or bytes.

    Raises:
        ApiError: 400 if it does not match, 408 if it came too slowly, 413 if it is too large, 415 if it has
            a Content-Encoding, 429 if there is no memory for it now.
    """
    memory = json.memory
    if body.kind == "bytes":
        return read_image(request, limits, memory)
    if body.kind == "file":
        return read_file(request, limits, memory, body.file_fields)
    if body.kind == "multipart":
        return read_multipart(request, limits, memory)
    try:
        if body.kind == "form":
            value: Mapping[str, Any] = dict(read_form(request, limits, memory))
        else:
            value = json.get()
        return validate(value, body.schema, body.hint)
    except ApiError as error:
        if error.status != 400 or body.invalid_status == 400:
            raise
        raise ApiError(body.invalid_status, error.code, error.message, where=error.where) from None


def read_json(request: Request, limits: Limits, memory: ParsingMemory) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 400 if it is not one, 413 if it is too large, and as `read_bytes`.
    """
    data = read_bytes(request, limits.request_bytes)
    # Some of these characters are inside strings; the bound leaves ample room for that.
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > max(MAX_JSON_VALUES, 100 * limits.items):
        raise ApiError(413, "json_too_complex", "The body holds far more JSON values than a request needs.")
    if len(data) > UNCOUNTED // JSON_VALUE_BYTES:
        memory.draw(json_bytes(data, values))
    # RFC 8259, section 8.1, lets a parser ignore a byte order mark, which Windows tools write.
    if data.startswith(b"\xef\xbb\xbf"):
        del data[:3]
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "json_invalid", f"The body is not valid JSON: {error}.") from None
    del data
    _release(request)
    if not isinstance(body, dict):
        raise ApiError(400, "json_not_an_object", 'The body must be a JSON object: {"name": value, ...}.')
    return body


def read_image(request: Request, limits: Limits, memory: ParsingMemory) -> bytes:
    """The body as the bytes of an image. Raises ApiError as `read_bytes`."""
    data = read_bytes(request, limits.image_bytes)
    memory.draw(len(data))
    image = bytes(data)
    del data
    _release(request)
    return image


def read_bytes(request: Request, max_bytes: int) -> bytearray:
    """The raw body, which the server then holds no longer.

    Raises:
        ApiError: 413 above `max_bytes` or if there will never be memory for it, 400 if the client
            disconnected, 408 if it came too slowly, 429 if there is no memory for it now.
    """
    _refuse_large(request, max_bytes)
    if (body := _buffered(request)) is not None:
        data = body.take()
    else:
        # One byte above the limit, so that a body of undeclared length is read just far enough to be refused.
        request.max_content_length = max_bytes + 1
        data = bytearray()
        try:
            while len(data) <= max_bytes and (part := request.stream.read(READ_BYTES)):
                data += part
        except Exception:
            raise _incomplete() from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if len(data) < (request.content_length or 0):
        raise _incomplete()
    return data


def read_form(request: Request, limits: Limits, memory: ParsingMemory) -> Mapping[str, str]:
    """The text fields of a form, URL-encoded or multipart. Raises ApiError 400 or 413."""
    if request.mimetype == "multipart/form-data":
        return _multipart(request, limits, memory)[0]
    # A character takes up to twelve bytes here: four of UTF-8, each as %XX.
    data = read_bytes(request, min(limits.request_bytes, FORM_BYTES + 12 * limits.text_chars))
    memory.draw(8 * len(data))
    try:
        fields = parse_qsl(
            data.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except UnicodeError:
        raise _unreadable("it is not UTF-8") from None
    except ValueError:
        raise _unreadable(f"it has more than {MAX_FORM_FIELDS:,} fields") from None
    return MultiDict(fields)


def read_file(request: Request, limits: Limits, memory: ParsingMemory, names: Sequence[str]) -> UploadedFile:
    """The file in the first of the fields `names` that a multipart form has. Raises ApiError 400 or 413."""
    files = _multipart(request, limits, memory)[1]
    for name in names:
        if (file := files.get(name)) is not None:
            return _uploaded_file(file, limits)
    fields = " or ".join(f"`{name}`" for name in names)
    message = f"The form has no file in the field {fields}; with curl: -F {names[0]}=@photo.jpg."
    raise ApiError(400, "field_missing", message)


def read_multipart(request: Request, limits: Limits, memory: ParsingMemory) -> MultipartForm:
    """A multipart form as a whole. Raises ApiError 400 or 413."""
    fields, files = _multipart(request, limits, memory)
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


def drop_body(request: Request) -> None:
    """Discard what was not read of the body, and give its memory back.

    functions-framework would read it after the reply, keep all of it in memory and answer 500 on any error.
    """
    if (body := _buffered(request)) is not None:
        body.release()
    else:
        # A client that is still sending would otherwise see a broken connection instead of the reply.
        with suppress(Exception):
            while request.stream.read(READ_BYTES):
                pass
    request.stream = io.BytesIO()


def _multipart(
    request: Request, limits: Limits, memory: ParsingMemory
) -> tuple[Mapping[str, str], Mapping[str, FileStorage]]:
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
    body = _buffered(request)
    if body is not None:
        # Twice: a file is copied once more when it is taken out of its part.
        memory.draw(2 * body.size)
    # The parser reads in small steps: see READ_BYTES.
    stream = io.BufferedReader(request.stream if body is None else body, READ_BYTES)  # type: ignore[type-var]
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
    except Exception:
        raise _incomplete() from None
    _release(request)
    return fields, files


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> io.BytesIO:
    # The limit of the body bounds its size. In the cloud, a temporary file would be in memory too.
    return io.BytesIO()


def _buffered(request: Request) -> BufferedBody | None:
    """The body that our server has read already; None with another server."""
    body = request.environ["wsgi.input"]
    return body if isinstance(body, BufferedBody) else None


def _release(request: Request) -> None:
    """Give the memory of the body back before the end of the request."""
    if (body := _buffered(request)) is not None:
        body.release()


def _refuse_large(request: Request, max_bytes: int) -> None:
    """Refuse what cannot be read as a whole, if possible before it is read."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "encoding_unsupported", "Send the body without Content-Encoding.")
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    if (body := _buffered(request)) is None or body.arrival is Arrival.COMPLETE:
        return
    if body.arrival is Arrival.TOO_SLOW:
        raise ApiError(408, "body_timeout", "The body came too slowly; send the request again.")
    if body.arrival is Arrival.TOO_LARGE:
        raise _too_large(max_bytes)
    if body.arrival is Arrival.NEVER_FITS:
        raise never_fits(f"The body has more than {body.room:,} bytes", body.room)
    if body.arrival is Arrival.NO_ROOM:
        raise no_room()
    raise _incomplete()


def _unreadable(why: str) -> ApiError:
    return ApiError(400, "body_unreadable", f"The body could not be read: {why}.")


def _incomplete() -> ApiError:
    return _unreadable("it ended early")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The body has more than {max_bytes:,} bytes.")
