"""The photo app's protocol: the URL of a picture as a form field in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.images.sources import parse_url
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    Endpoint,
    Protocol,
    Provenance,
    Vector,
    form_body,
    provenance,
)


class UploadForm(msgspec.Struct):
    """The URL of a picture."""

    imageUrl: str  # noqa: N815 - the client's own name


class UploadReply(Provenance, kw_only=True):
    """The picture's vector."""

    message: str
    embedding: Vector


def parse(body: UploadForm, limits: Limits) -> EmbedRequest:
    """Form field `imageUrl`."""
    return EmbedRequest(images=[parse_url(body.imageUrl, limits.image_bytes)])


def write(body: UploadForm, result: EmbedResult) -> Mapping[str, Any]:
    """`{"message": str, "embedding": [f]}`."""
    assert result.images is not None
    return {
        "message": "Image processed successfully",
        "embedding": only_vector(result.images),
        **provenance(result),
    }


PROTOCOL = Protocol(
    "photo-app",
    (
        Endpoint(
            operation_id="upload",
            summary="The picture at a URL to a vector",
            path="/upload",
            body=form_body(UploadForm),
            reply=UploadReply,
            parse=parse,
            write=write,
            functions=("embed_image",),
            example={"imageUrl": EXAMPLE_IMAGE},
        ),
    ),
)
