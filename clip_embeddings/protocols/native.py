"""The native protocol: JSON lists in, lists of vectors out, and an image's bytes as a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes, Source, parse_image, parse_url
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    Body,
    Endpoint,
    Images,
    ItemError,
    Options,
    Protocol,
    Provenance,
    Texts,
    VectorReply,
    Vectors,
    json_body,
    parse_each,
    parse_text,
    provenance,
    vectors_and_errors,
)


class TextsBody(Options, kw_only=True):
    """Texts to embed; the empty string is a valid one."""

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


def parse_texts(body: TextsBody, limits: Limits) -> EmbedRequest:
    """`{"texts": [str]}`."""
    _check_count(limits, body.texts)
    texts = parse_each(body.texts, lambda item: parse_text(item, limits))
    return EmbedRequest(texts=texts, model=body.model, normalize=body.normalize)


def parse_images(body: ImagesBody, limits: Limits) -> EmbedRequest:
    """`{"urls": [str]}`, or `images` in place of `urls`."""
    field, items = _image_list(body)
    _check_count(limits, items)
    images = _parse_image_list(field, items, limits)
    return EmbedRequest(images=images, model=body.model, normalize=body.normalize)


def parse_mixed(body: MixedBody, limits: Limits) -> EmbedRequest:
    """`{"texts": [str], "urls": [str]}`, or `images` in place of `urls`."""
    field, items = _image_list(body)
    _check_count(limits, body.texts, items)
    return EmbedRequest(
        texts=parse_each(body.texts, lambda item: parse_text(item, limits)),
        images=_parse_image_list(field, items, limits),
        model=body.model,
        normalize=body.normalize,
    )


def parse_raw(body: bytes, limits: Limits) -> EmbedRequest:
    """An image as the body itself."""
    if not body:
        raise ApiError(400, "image_empty", "The body is empty: send the picture's bytes.")
    return EmbedRequest(images=[ImageBytes(body)])


def write_texts(body: TextsBody, result: EmbedResult) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert result.texts is not None
    rows, errors = vectors_and_errors(result.texts, "texts")
    truncated = result.texts.truncated
    return {"embeddings": rows, **provenance(result), "errors": errors, "truncated": truncated}


def write_images(body: ImagesBody, result: EmbedResult) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert result.images is not None
    rows, errors = vectors_and_errors(result.images, _image_list(body)[0])
    return {"embeddings": rows, **provenance(result), "errors": errors}


def write_mixed(body: MixedBody, result: EmbedResult) -> Mapping[str, Any]:
    """`{"text_embeddings": [[f]], "image_embeddings": [[f]]}`."""
    assert result.texts is not None
    assert result.images is not None
    texts, text_errors = vectors_and_errors(result.texts, "texts")
    images, image_errors = vectors_and_errors(result.images, _image_list(body)[0])
    return {
        "text_embeddings": texts,
        "image_embeddings": images,
        **provenance(result),
        "errors": text_errors + image_errors,
        "truncated": result.texts.truncated,
    }


def write_raw(body: bytes, result: EmbedResult) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    assert result.images is not None
    return {"embedding": only_vector(result.images), **provenance(result)}


def _check_count(limits: Limits, *lists: Sequence[object]) -> None:
    count = sum(map(len, lists))
    if count > limits.items:
        raise ApiError(
            413, "too_many_items", f"The request has {count:,} items; {limits.items:,} are allowed."
        )


def _image_list(body: ImagesBody) -> tuple[str, Sequence[object]]:
    """The list of images that the body has, and its name. Raises ApiError 400 for none or two."""
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


def _parse_image_list(field: str, items: Sequence[object], limits: Limits) -> list[Source | ApiError]:
    parse = parse_url if field == "urls" else parse_image
    return parse_each(items, lambda item: parse(item, limits.image_bytes))


PROTOCOL = Protocol(
    "native",
    (
        Endpoint(
            operation_id="embed_texts",
            summary="Texts to vectors",
            path="/embed/text",
            body=json_body(TextsBody),
            reply=TextsReply,
            parse=parse_texts,
            write=write_texts,
            functions=("embed_text",),
            example={"texts": ["birthday cake", "fire engine"]},
        ),
        Endpoint(
            operation_id="embed_images",
            summary="Pictures to vectors",
            path="/embed/image",
            body=json_body(ImagesBody),
            reply=ImagesReply,
            parse=parse_images,
            write=write_images,
            functions=("embed_image",),
            example={"images": [EXAMPLE_IMAGE]},
        ),
        Endpoint(
            operation_id="embed_mixed",
            summary="Texts and pictures to vectors of one space",
            path="/embed/mixed",
            body=json_body(MixedBody),
            reply=MixedReply,
            parse=parse_mixed,
            write=write_mixed,
            functions=("embed_mixed",),
            example={"texts": ["birthday cake"], "images": [EXAMPLE_IMAGE]},
        ),
        Endpoint(
            operation_id="embed_raw_image",
            summary="A picture's bytes to a vector",
            path="/embed/image",
            body=Body("bytes", ("image/*",), {"type": "string", "format": "binary"}),
            reply=VectorReply,
            parse=parse_raw,
            write=write_raw,
            functions=("embed_image",),
        ),
    ),
)
