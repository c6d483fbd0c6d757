"""The image-text encoder's convention: one text or one picture as JSON, one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Request

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import read_json
from clip_embeddings.images.sources import parse_image, parse_url
from clip_embeddings.protocols.base import (
    JSON,
    Body,
    EmbedRequest,
    EmbedResult,
    Endpoint,
    only_vector,
    provenance,
    validate,
)
from clip_embeddings.protocols.native import Options, VectorReply
from clip_embeddings.protocols.options import text_item


class TextBody(Options, kw_only=True):
    """A text to embed."""

    text: str


class ImageBody(Options, kw_only=True):
    """A picture to embed: its URL, or its bytes in base64."""

    image_url: str | None = None
    image_b64: str | None = None


def parse_text(request: Request, limits: Limits) -> EmbedRequest:
    """`{"text": str}`."""
    body = validate(read_json(request, limits), TextBody)
    return EmbedRequest(texts=[text_item(body.text, limits)], model=body.model, normalize=body.normalize)


def parse_picture(request: Request, limits: Limits) -> EmbedRequest:
    """`{"image_url": str}` or `{"image_b64": str}`."""
    body = validate(read_json(request, limits), ImageBody)
    if body.image_url is None and body.image_b64 is None:
        raise ApiError(400, "image_missing", "Send either `image_url` or `image_b64`.")
    if body.image_url is not None and body.image_b64 is not None:
        raise ApiError(400, "image_ambiguous", "Send either `image_url` or `image_b64`, not both.")
    if body.image_url is not None:
        image = parse_url(body.image_url, limits.image_bytes)
    else:
        image = parse_image(body.image_b64, limits.image_bytes)
    return EmbedRequest(images=[image], model=body.model, normalize=body.normalize)


def write(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    part = answer.texts or answer.images
    assert part is not None
    return {"embedding": only_vector(part), **provenance(answer)}


TEXT = Endpoint(
    operation="encode_text",
    summary="A text to a vector",
    path="/encode_text",
    body=Body(JSON, TextBody),
    reply=VectorReply,
    parse=parse_text,
    write=write,
    protocol="encoder",
)
IMAGE = Endpoint(
    operation="encode_image",
    summary="A picture to a vector",
    path="/encode_image",
    body=Body(JSON, ImageBody),
    reply=VectorReply,
    parse=parse_picture,
    write=write,
    protocol="encoder",
)
