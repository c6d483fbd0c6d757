"""The image-text encoder's protocol: one text or one picture as JSON in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image, parse_url
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    PLAIN_ERRORS,
    Endpoint,
    Options,
    Protocol,
    RequestInfo,
    Vector,
    json_body,
)
from clip_embeddings.protocols.items import parse_text


class TextBody(Options, kw_only=True):
    """A text to embed."""

    text: str


class ImageBody(Options, kw_only=True):
    """A picture to embed: its URL, or its bytes in base64."""

    image_url: str | None = None
    image_b64: str | None = None


class VectorReply(msgspec.Struct):
    """The vector."""

    success: bool
    embedding: Vector
    dimensions: int


def parse_text_body(body: TextBody, info: RequestInfo) -> EmbedRequest:
    """`{"text": str}`."""
    text = parse_text(body.text, info.limits)
    return body.request(texts=[text])


def parse_image_body(body: ImageBody, info: RequestInfo) -> EmbedRequest:
    """`{"image_b64": str}`, or `{"image_url": str}`, which counts where the first is missing or empty."""
    limit = info.limits.image_bytes
    if body.image_b64:
        image = parse_image(body.image_b64, limit)
    elif body.image_url:
        image = parse_url(body.image_url, limit)
    else:
        raise ApiError(400, "image_missing", "Send either `image_url` or `image_b64`.")
    return body.request(images=[image])


def write(body: TextBody | ImageBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"success": true, "embedding": [f], "dimensions": n}`."""
    part = result.texts or result.images
    assert part is not None
    vector = only_vector(part)
    return {"success": True, "embedding": vector, "dimensions": len(vector)}


PROTOCOL = Protocol(
    "encoder",
    (
        Endpoint(
            operation_id="encode_text",
            summary="A text to a vector",
            path="/encode_text",
            body=json_body(TextBody),
            reply=VectorReply,
            parse=parse_text_body,
            write=write,
            functions=("embed_text",),
            example={"text": "birthday cake"},
        ),
        Endpoint(
            operation_id="encode_image",
            summary="A picture to a vector",
            path="/encode_image",
            body=json_body(ImageBody),
            reply=VectorReply,
            parse=parse_image_body,
            write=write,
            functions=("embed_image",),
            example={"image_b64": EXAMPLE_IMAGE},
        ),
    ),
    errors=PLAIN_ERRORS,
    tag="encoder",
)
