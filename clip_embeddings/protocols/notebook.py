"""The form protocol: one text field or one uploaded file in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.protocols.base import (
    MULTIPART,
    Body,
    Endpoint,
    Protocol,
    Provenance,
    UploadedFile,
    Vector,
    form_body,
    parse_text,
    provenance,
)


class TextForm(msgspec.Struct):
    """A text to embed."""

    text: str


# JSON Schema as it is: for a struct with bytes, msgspec would document base64.
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


def parse_form(body: TextForm, limits: Limits) -> EmbedRequest:
    """Form field `text`."""
    return EmbedRequest(texts=[parse_text(body.text, limits)])


def write_text(body: TextForm, result: EmbedResult) -> Mapping[str, Any]:
    """`{"text": str, "embedding": [f]}`."""
    assert result.texts is not None
    return {
        "text": body.text,
        "embedding": only_vector(result.texts),
        **provenance(result),
        "truncated": bool(result.texts.truncated),
    }


def parse_file(body: UploadedFile, limits: Limits) -> EmbedRequest:
    """Multipart field `file`."""
    return EmbedRequest(images=[ImageBytes(body.data)])


def write_file(body: UploadedFile, result: EmbedResult) -> Mapping[str, Any]:
    """`{"filename": str, "embedding": [f]}`."""
    assert result.images is not None
    return {"filename": body.filename, "embedding": only_vector(result.images), **provenance(result)}


PROTOCOL = Protocol(
    "notebook",
    (
        Endpoint(
            operation_id="embed_text_form",
            summary="A text to a vector",
            path="/embed/text",
            body=form_body(TextForm),
            reply=TextReply,
            parse=parse_form,
            write=write_text,
            functions=("embed_text",),
            example={"text": "birthday cake"},
        ),
        Endpoint(
            operation_id="embed_image_file",
            summary="An uploaded picture to a vector",
            path="/embed/image",
            body=Body("file", MULTIPART, FILE_FORM, file_field="file"),
            reply=FileReply,
            parse=parse_file,
            write=write_file,
            functions=("embed_image",),
        ),
    ),
)
