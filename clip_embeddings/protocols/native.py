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
    RequestInfo,
    Texts,
    VectorReply,
    Vectors,
    json_body,
)
from clip_embeddings.protocols.items import (
    check_count,
    fingerprints,
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
    """Texts, pictures or both to embed."""

    texts: Texts | None = None


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

    text_embeddings: Vectors | None
    image_embeddings: Vectors | None
    errors: list[ItemError]
    truncated: list[int]
    model: str
    dimensions: int
    space: str
    fingerprint: dict[str, str]


def parse_texts(body: TextsBody, info: RequestInfo) -> EmbedRequest:
    """`{"texts": [str]}`."""
    check_count(len(body.texts), info.limits.items)
    texts = parse_each(body.texts, lambda item: parse_text(item, info.limits))
    return body.request(texts=texts)


def parse_images(body: ImagesBody, info: RequestInfo) -> EmbedRequest:
    """`{"urls": [str]}`, or `images` in place of `urls`."""
    field, items = _image_list(body)
    check_count(len(items), info.limits.items)
    images = _parse_image_list(field, items, info.limits)
    return body.request(images=images)


def parse_mixed(body: MixedBody, info: RequestInfo) -> EmbedRequest:
    """`{"texts": [str], "urls": [str]}`, or `images` in place of `urls`; either list may be missing."""
    limits = info.limits
    texts = body.texts or []
    field, items = _image_list(body) if _has_images(body) else ("urls", ())
    if not texts and not items:
        raise ApiError(400, "list_missing", "The body has no list `texts`, `urls` or `images`.")
    check_count(len(texts) + len(items), limits.items)
    return body.request(
        texts=parse_each(texts, lambda item: parse_text(item, limits)),
        images=_parse_image_list(field, items, limits),
    )


def parse_raw(body: bytes, info: RequestInfo) -> EmbedRequest:
    """An image as the body itself."""
    if not body:
        raise ApiError(400, "image_empty", "The body is empty: send the picture's bytes.")
    return EmbedRequest(images=[ImageBytes(body)])


def write_texts(body: TextsBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert result.texts is not None
    rows, errors = vectors_and_errors(result.texts, "texts")
    truncated = result.texts.truncated
    return {"embeddings": rows, **provenance(result), "errors": errors, "truncated": truncated}


def write_images(body: ImagesBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert result.images is not None
    rows, errors = vectors_and_errors(result.images, _image_list(body)[0])
    return {"embeddings": rows, **provenance(result), "errors": errors}


def write_mixed(body: MixedBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"text_embeddings": [[f]], "image_embeddings": [[f]]}`; null for a list that the request lacks."""
    texts, text_errors = vectors_and_errors(result.texts, "texts") if result.texts else (None, [])
    images, image_errors = (
        vectors_and_errors(result.images, _image_list(body)[0]) if result.images else (None, [])
    )
    return {
        "text_embeddings": texts,
        "image_embeddings": images,
        **provenance(result),
        "fingerprint": fingerprints(result),
        "errors": text_errors + image_errors,
        "truncated": result.texts.truncated if result.texts else [],
    }


def write_raw(body: bytes, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    assert result.images is not None
    return {"embedding": only_vector(result.images), **provenance(result)}


def _has_images(body: ImagesBody) -> bool:
    return body.urls is not msgspec.UNSET or body.images is not msgspec.UNSET


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
            keys=("texts",),
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
            keys=("urls", "images"),
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
            keys=("texts", "urls", "images"),
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
