"""Reading request bodies within limits: JSON, forms, raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson
from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from functions.config import Limits
from functions.errors import CallerError

T = TypeVar("T")


def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        CallerError: 400 if it is not one, 413 if it is too large.
    """
    data = read_bytes(request, limits.request_bytes)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CallerError(400, "json_invalid", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise CallerError(400, "json_not_an_object", "The body must be a JSON object.")
    return body


def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The raw body. Raises CallerError 413 above `max_bytes`, 400 if the client broke off."""
    _refuse_large(request, max_bytes)
    return _reading(lambda: request.get_data(cache=False), max_bytes)


def read_form(request: Request, limits: Limits) -> Mapping[str, str]:
    """The text fields of a form, URL-encoded or multipart. Raises CallerError 400 or 413."""
    _refuse_large(request, limits.request_bytes)
    # A text field may be as long as the whole request: its own limit is counted in characters.
    request.max_form_memory_size = limits.request_bytes
    return _reading(lambda: request.form, limits.request_bytes)


def read_file(request: Request, limits: Limits, name: str) -> FileStorage:
    """The file field `name` of a multipart form. Raises CallerError 400 or 413."""
    _refuse_large(request, limits.request_bytes)
    file = _reading(lambda: request.files, limits.request_bytes).get(name)
    if file is None:
        raise CallerError(400, "field_missing", f"The form has no file in the field `{name}`.")
    return file


def _refuse_large(request: Request, max_bytes: int) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise CallerError(415, "encoding_unsupported", "Send the body without Content-Encoding.")
    # A declared length is refused before a byte is read, an undeclared one while it is.
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    request.max_content_length = max_bytes


def _reading(read: Callable[[], T], max_bytes: int) -> T:
    try:
        return read()
    except RequestEntityTooLarge:
        raise _too_large(max_bytes) from None
    except (HTTPException, OSError, ValueError):
        raise CallerError(400, "body_unreadable", "The request body could not be read.") from None


def _too_large(max_bytes: int) -> CallerError:
    return CallerError(413, "request_too_large", f"The request has more than {max_bytes:,} bytes.")
