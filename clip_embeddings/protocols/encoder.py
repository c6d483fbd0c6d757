"""The image-text encoder's protocol: one text or one picture as JSON in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image, parse_url
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    Endpoint,
    Options,
    Protocol,
    VectorReply,
    json_body,
    parse_text,
    provenance,
)


class TextBody(Options, kw_only=True):
    """A text to embed."""

    text: str


class ImageBody(Options, kw_only=True):
    """A picture to embed: its URL, or its bytes in base64."""

    image_url: str | None = None
    image_b64: str | None = None


def parse_text_body(body: TextBody, limits: Limits) -> EmbedRequest:
    """`{"text": str}`."""
    return EmbedRequest(texts=[parse_text(body.text, limits)], model=body.model, normalize=body.normalize)


def parse_image_body(body: ImageBody, limits: Limits) -> EmbedRequest:
    """`{"image_url": str}` or `{"image_b64": str}`."""
    if body.image_url is None and body.image_b64 is None:
        raise ApiError(400, "image_missing", "Send either `image_url` or `image_b64`.")
    if body.image_url is not None and body.image_b64 is not None:
        raise ApiError(400, "image_ambiguous", "Send either `image_url` or `image_b64`, not both.")
    if body.image_url is not None:
        image = parse_url(body.image_url, limits.image_bytes)
    else:
        image = parse_image(body.image_b64, limits.image_bytes)
    return EmbedRequest(images=[image], model=body.model, normalize=body.normalize)


def write(body: TextBody | ImageBody, result: EmbedResult) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    part = result.texts or result.images
    assert part is not None
    return {"embedding": only_vector(part), **provenance(result)}


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
)
