"""The form convention: one text field or one uploaded file, one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Request

from functions.config import Limits
from functions.errors import CallerError
from functions.inputs.bodies import read_file, read_form
from functions.inputs.sources import Blob
from functions.protocols.convention import Answer, Ask, Convention, labels, single
from functions.protocols.options import query_options, text_item

FORM = ("application/x-www-form-urlencoded", "multipart/form-data")


def parse_text(request: Request, limits: Limits) -> Ask:
    """Form field `text`."""
    form = read_form(request, limits)
    if "text" not in form:
        raise CallerError(
            400,
            "field_missing",
            "The form has no field `text`. For JSON, send Content-Type: application/json.",
        )
    text = text_item(form["text"], limits)
    return Ask(texts=[text], echo={"text": text}, **query_options(request.args))


def write_text(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"text": str, "embedding": [f]}`."""
    assert answer.texts is not None
    return {
        **ask.echo,
        "embedding": single(answer.texts),
        **labels(answer),
        "truncated": bool(answer.texts.truncated),
    }


def parse_file(request: Request, limits: Limits) -> Ask:
    """Multipart field `file`."""
    file = read_file(request, limits, "file")
    data = file.stream.read(limits.image_bytes + 1)
    if len(data) > limits.image_bytes:
        raise CallerError(413, "image_too_large", f"The image has more than {limits.image_bytes:,} bytes.")
    if not data:
        raise CallerError(400, "image_empty", "The uploaded file is empty.")
    return Ask(images=[Blob(data)], echo={"filename": file.filename or ""}, **query_options(request.args))


def write_file(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"filename": str, "embedding": [f]}`."""
    assert answer.images is not None
    return {**ask.echo, "embedding": single(answer.images), **labels(answer)}


TEXT = Convention("/embed/text", FORM, parse_text, write_text)
IMAGE = Convention("/embed/image", ("multipart/form-data",), parse_file, write_file)
