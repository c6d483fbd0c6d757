"""The form convention: one text field or one uploaded file, one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Request

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import read_file, read_form
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.protocols.base import (
    FORM,
    Body,
    EmbedRequest,
    EmbedResult,
    Endpoint,
    Provenance,
    Vector,
    only_vector,
    provenance,
    validate,
)
from clip_embeddings.protocols.options import text_item

# A form is what curl -d sends when no content type is named.
USE_JSON = " If it is JSON, send Content-Type: application/json."


class TextForm(msgspec.Struct):
    """A text to embed."""

    text: str


# JSON Schema as it is: of a struct's bytes, msgspec would say that they come in base64.
FILE_FORM = {
    "title": "FileForm",
    "description": "A picture to embed.",
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}},
    "required": ["file"],
}


class TextReply(Provenance, kw_only=True):
    """The text and its vector."""

    text: str
    embedding: Vector
    truncated: bool


class FileReply(Provenance, kw_only=True):
    """The uploaded file's name and its vector."""

    filename: str
    embedding: Vector


def parse_text(request: Request, limits: Limits) -> EmbedRequest:
    """Form field `text`."""
    text = text_item(validate(dict(read_form(request, limits)), TextForm, USE_JSON).text, limits)
    return EmbedRequest(texts=[text], echo={"text": text})


def write_text(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"text": str, "embedding": [f]}`."""
    assert answer.texts is not None
    return {
        **ask.echo,
        "embedding": only_vector(answer.texts),
        **provenance(answer),
        "truncated": bool(answer.texts.truncated),
    }


def parse_file(request: Request, limits: Limits) -> EmbedRequest:
    """Multipart field `file`."""
    file = read_file(request, limits, "file")
    data = file.stream.read(limits.image_bytes + 1)
    if len(data) > limits.image_bytes:
        raise ApiError(413, "image_too_large", f"The image has more than {limits.image_bytes:,} bytes.")
    if not data:
        raise ApiError(400, "image_empty", "The uploaded file is empty.")
    return EmbedRequest(images=[ImageBytes(data)], echo={"filename": file.filename or ""})


def write_file(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"filename": str, "embedding": [f]}`."""
    assert answer.images is not None
    return {**ask.echo, "embedding": only_vector(answer.images), **provenance(answer)}


TEXT = Endpoint(
    operation="embed_text_form",
    summary="A text to a vector",
    path="/embed/text",
    body=Body(FORM, TextForm),
    reply=TextReply,
    parse=parse_text,
    write=write_text,
    protocol="notebook",
)
IMAGE = Endpoint(
    operation="embed_image_file",
    summary="An uploaded picture to a vector",
    path="/embed/image",
    body=Body(("multipart/form-data",), FILE_FORM),
    reply=FileReply,
    parse=parse_file,
    write=write_file,
    protocol="notebook",
)
