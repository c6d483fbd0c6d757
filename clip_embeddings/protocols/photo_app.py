"""The photo app's convention: the address of a picture as a form field, one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Request

from clip_embeddings.config import Limits
from clip_embeddings.http.bodies import read_form
from clip_embeddings.images.sources import parse_url
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
from clip_embeddings.protocols.notebook import USE_JSON


class UploadForm(msgspec.Struct):
    """The URL of a picture."""

    imageUrl: str  # noqa: N815 - the client's own name


class UploadReply(Provenance, kw_only=True):
    """The picture's vector."""

    message: str
    embedding: Vector


def parse(request: Request, limits: Limits) -> EmbedRequest:
    """Form field `imageUrl`."""
    form = validate(dict(read_form(request, limits)), UploadForm, USE_JSON)
    return EmbedRequest(images=[parse_url(form.imageUrl, limits.image_bytes)])


def write(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"message": str, "embedding": [f]}`."""
    assert answer.images is not None
    return {
        "message": "Image processed successfully",
        "embedding": only_vector(answer.images),
        **provenance(answer),
    }


UPLOAD = Endpoint(
    operation="upload",
    summary="The picture at a URL to a vector",
    path="/upload",
    body=Body(FORM, UploadForm),
    reply=UploadReply,
    parse=parse,
    write=write,
    protocol="photo-app",
)
