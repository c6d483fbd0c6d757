"""The photo app's protocol: the URL of a picture, or a prompt, in; one vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.images.sources import parse_url
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    PLAIN_ERRORS,
    Endpoint,
    Protocol,
    RequestInfo,
    Vector,
    form_body,
    json_body,
)
from clip_embeddings.protocols.items import parse_text


class UploadBody(msgspec.Struct):
    """The URL of a picture."""

    imageUrl: str  # noqa: N815 - the client's own name


class PromptBody(msgspec.Struct):
    """A text to search for."""

    prompt: str


class UploadReply(msgspec.Struct):
    """The vector."""

    message: str
    embedding: Vector


def parse_upload(body: UploadBody, info: RequestInfo) -> EmbedRequest:
    """`imageUrl`, as a form field or in JSON."""
    return EmbedRequest(images=[parse_url(body.imageUrl, info.limits.image_bytes)])


def write_upload(body: UploadBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"message": str, "embedding": [f]}`."""
    assert result.images is not None
    return {"message": "Image processed successfully", "embedding": only_vector(result.images)}


def parse_prompt(body: PromptBody, info: RequestInfo) -> EmbedRequest:
    """`{"prompt": str}`."""
    return EmbedRequest(texts=[parse_text(body.prompt, info.limits)])


def write_prompt(body: PromptBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"message": str, "embedding": [f]}`."""
    assert result.texts is not None
    return {"message": "Prompt processed successfully", "embedding": only_vector(result.texts)}


PROTOCOL = Protocol(
    "photo-app",
    (
        Endpoint(
            operation_id="upload",
            summary="The picture at a URL to a vector",
            path="/upload",
            body=form_body(UploadBody),
            reply=UploadReply,
            parse=parse_upload,
            write=write_upload,
            functions=("embed_image",),
            example={"imageUrl": EXAMPLE_IMAGE},
        ),
        # Later versions of the app send JSON.
        Endpoint(
            operation_id="upload_json",
            summary="The picture at a URL to a vector",
            path="/upload",
            body=json_body(UploadBody),
            reply=UploadReply,
            parse=parse_upload,
            write=write_upload,
            functions=("embed_image",),
            example={"imageUrl": EXAMPLE_IMAGE},
        ),
        Endpoint(
            operation_id="prompt",
            summary="A prompt to a vector",
            path="/search",
            keys=("prompt",),
            body=json_body(PromptBody),
            reply=UploadReply,
            parse=parse_prompt,
            write=write_prompt,
            functions=("embed_text", "search"),
            example={"prompt": "birthday cake"},
        ),
    ),
    errors=PLAIN_ERRORS,
    tag="photo app",
)
