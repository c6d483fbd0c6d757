"""The notebook API's protocol: one text field or one uploaded file in, one vector out.

The original's own client names the file's field `image` and reads `image_filename`; its documentation names
neither. Both names of each are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.protocols.base import (
    MULTIPART,
    PLAIN_ERRORS,
    Body,
    Endpoint,
    Protocol,
    RequestInfo,
    UploadedFile,
    Vector,
    form_body,
)
from clip_embeddings.protocols.items import parse_text


class TextForm(msgspec.Struct):
    """A text to embed."""

    text: str


# JSON Schema as it is: for a struct with bytes, msgspec would document base64.
FILE_FORM = {
    "title": "FileForm",
    "description": "A picture to embed, in one of the two fields.",
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "image": {"type": "string", "format": "binary"},
    },
    "anyOf": [{"required": ["file"]}, {"required": ["image"]}],
}


class TextReply(msgspec.Struct):
    """The text and its vector."""

    text: str
    embedding: Vector


class FileReply(msgspec.Struct):
    """The uploaded file's name, twice, and its vector."""

    filename: str
    image_filename: str
    embedding: Vector


def parse_form(body: TextForm, info: RequestInfo) -> EmbedRequest:
    """Form field `text`."""
    return EmbedRequest(texts=[parse_text(body.text, info.limits)])


def write_text(body: TextForm, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"text": str, "embedding": [f]}`."""
    assert result.texts is not None
    return {"text": body.text, "embedding": only_vector(result.texts)}


def parse_file(body: UploadedFile, info: RequestInfo) -> EmbedRequest:
    """Multipart field `file` or `image`."""
    return EmbedRequest(images=[ImageBytes(body.data)])


def write_file(body: UploadedFile, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"filename": str, "image_filename": str, "embedding": [f]}`."""
    assert result.images is not None
    return {
        "filename": body.filename,
        "image_filename": body.filename,
        "embedding": only_vector(result.images),
    }


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
            body=Body("file", MULTIPART, FILE_FORM, file_fields=("file", "image")),
            reply=FileReply,
            parse=parse_file,
            write=write_file,
            functions=("embed_image",),
        ),
    ),
    errors=PLAIN_ERRORS,
    tag="notebook",
)
