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
    Answer,
    Ask,
    Body,
    Convention,
    Labels,
    Vector,
    fit,
    labels,
    single,
)
from clip_embeddings.protocols.notebook import USE_JSON


class UploadForm(msgspec.Struct):
    """The URL of a picture."""

    imageUrl: str  # noqa: N815 - the client's own name


class UploadReply(Labels, kw_only=True):
    """The picture's vector."""

    message: str
    embedding: Vector


def parse(request: Request, limits: Limits) -> Ask:
    """Form field `imageUrl`."""
    form = fit(dict(read_form(request, limits)), UploadForm, USE_JSON)
    return Ask(images=[parse_url(form.imageUrl, limits.image_bytes)])


def write(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"message": str, "embedding": [f]}`."""
    assert answer.images is not None
    return {
        "message": "Image processed successfully",
        "embedding": single(answer.images),
        **labels(answer),
    }


UPLOAD = Convention(
    operation="upload",
    summary="The picture at a URL to a vector",
    path="/upload",
    body=Body(FORM, UploadForm),
    reply=UploadReply,
    parse=parse,
    write=write,
    protocol="photo-app",
)
