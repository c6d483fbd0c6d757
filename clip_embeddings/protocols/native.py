"""The native convention: JSON lists in, lists of vectors out, and a raw picture as a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from flask import Request

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.http.bodies import read_bytes, read_json
from clip_embeddings.images.sources import ImageBytes, Source, parse_image, parse_url
from clip_embeddings.protocols.base import (
    JSON,
    Body,
    EmbedRequest,
    EmbedResult,
    Endpoint,
    Images,
    ItemError,
    Provenance,
    Texts,
    Vector,
    Vectors,
    only_vector,
    parse_each,
    provenance,
    validate,
    vectors_and_errors,
)
from clip_embeddings.protocols.options import text_item


class Options(msgspec.Struct, kw_only=True):
    """What may accompany the items."""

    model: str | None = None
    normalize: bool = True


class TextsBody(Options, kw_only=True):
    """Texts to embed; the empty string is one."""

    texts: Texts


class ImagesBody(Options, kw_only=True):
    """Pictures to embed, in `urls` or in `images`."""

    urls: Images | msgspec.UnsetType = msgspec.UNSET
    images: Images | msgspec.UnsetType = msgspec.UNSET


class MixedBody(ImagesBody, kw_only=True):
    """Texts and pictures to embed."""

    texts: Texts


class TextsReply(Provenance, kw_only=True):
    """A vector per text."""

    embeddings: Vectors
    errors: list[ItemError]
    truncated: list[int]


class ImagesReply(Provenance, kw_only=True):
    """A vector per picture."""

    embeddings: Vectors
    errors: list[ItemError]


class MixedReply(msgspec.Struct, kw_only=True):
    """A vector per text and per picture."""

    text_embeddings: Vectors
    image_embeddings: Vectors
    errors: list[ItemError]
    truncated: list[int]
    model: str
    dimensions: int
    space: str
    fingerprint: dict[str, str]


class VectorReply(Provenance, kw_only=True):
    """The vector of the only item."""

    embedding: Vector


def parse_texts(request: Request, limits: Limits) -> EmbedRequest:
    """`{"texts": [str]}`."""
    body = validate(read_json(request, limits), TextsBody)
    _check_count(limits, body.texts)
    texts = parse_each(body.texts, lambda item: text_item(item, limits))
    return EmbedRequest(texts=texts, model=body.model, normalize=body.normalize)


def parse_images(request: Request, limits: Limits) -> EmbedRequest:
    """`{"urls": [str]}`, or `images` in place of `urls`."""
    body = validate(read_json(request, limits), ImagesBody)
    field, items = _image_list(body)
    _check_count(limits, items)
    images = _images(field, items, limits)
    return EmbedRequest(images=images, image_field=field, model=body.model, normalize=body.normalize)


def parse_mixed(request: Request, limits: Limits) -> EmbedRequest:
    """`{"texts": [str], "urls": [str]}`, or `images` in place of `urls`."""
    body = validate(read_json(request, limits), MixedBody)
    field, items = _image_list(body)
    _check_count(limits, body.texts, items)
    return EmbedRequest(
        texts=parse_each(body.texts, lambda item: text_item(item, limits)),
        images=_images(field, items, limits),
        image_field=field,
        model=body.model,
        normalize=body.normalize,
    )


def parse_raw(request: Request, limits: Limits) -> EmbedRequest:
    """A picture as the body itself."""
    data = read_bytes(request, limits.image_bytes)
    if not data:
        raise ApiError(400, "image_empty", "The body is empty: send the picture's bytes.")
    return EmbedRequest(images=[ImageBytes(data)])


def write_texts(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert answer.texts is not None
    rows, errors = vectors_and_errors(answer.texts, ask.text_field)
    return {"embeddings": rows, **provenance(answer), "errors": errors, "truncated": answer.texts.truncated}


def write_images(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert answer.images is not None
    rows, errors = vectors_and_errors(answer.images, ask.image_field)
    return {"embeddings": rows, **provenance(answer), "errors": errors}


def write_mixed(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"text_embeddings": [[f]], "image_embeddings": [[f]]}`."""
    assert answer.texts is not None
    assert answer.images is not None
    texts, text_errors = vectors_and_errors(answer.texts, ask.text_field)
    images, image_errors = vectors_and_errors(answer.images, ask.image_field)
    return {
        "text_embeddings": texts,
        "image_embeddings": images,
        **provenance(answer),
        "errors": text_errors + image_errors,
        "truncated": answer.texts.truncated,
    }


def write_raw(ask: EmbedRequest, answer: EmbedResult) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    assert answer.images is not None
    return {"embedding": only_vector(answer.images), **provenance(answer)}


def _image_list(body: ImagesBody) -> tuple[str, Sequence[object]]:
    lists = [
        (name, value)
        for name, value in (("urls", body.urls), ("images", body.images))
        if not isinstance(value, msgspec.UnsetType)
    ]
    if not lists:
        raise ApiError(400, "list_missing", "The body has no list `urls` or `images`.")
    if len(lists) > 1:
        raise ApiError(400, "list_ambiguous", "Send either `urls` or `images`, not both.")
    return lists[0]


def _check_count(limits: Limits, *lists: Sequence[object]) -> None:
    count = sum(map(len, lists))
    if count > limits.items:
        raise ApiError(
            413, "too_many_items", f"The request has {count:,} items; {limits.items:,} are allowed."
        )


def _images(field: str, values: Sequence[object], limits: Limits) -> list[Source | ApiError]:
    parse = parse_url if field == "urls" else parse_image
    return parse_each(values, lambda value: parse(value, limits.image_bytes))


TEXT = Endpoint(
    operation="embed_texts",
    summary="Texts to vectors",
    path="/embed/text",
    body=Body(JSON, TextsBody),
    reply=TextsReply,
    parse=parse_texts,
    write=write_texts,
)
IMAGE = Endpoint(
    operation="embed_images",
    summary="Pictures to vectors",
    path="/embed/image",
    body=Body(JSON, ImagesBody),
    reply=ImagesReply,
    parse=parse_images,
    write=write_images,
)
MIXED = Endpoint(
    operation="embed_mixed",
    summary="Texts and pictures to vectors of one space",
    path="/embed/mixed",
    body=Body(JSON, MixedBody),
    reply=MixedReply,
    parse=parse_mixed,
    write=write_mixed,
)
RAW = Endpoint(
    operation="embed_raw_image",
    summary="A picture's bytes to a vector",
    path="/embed/image",
    body=Body(("image/*",), {"type": "string", "format": "binary"}),
    reply=VectorReply,
    parse=parse_raw,
    write=write_raw,
)
