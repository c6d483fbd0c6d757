"""Cohere's protocol, versions 1 and 2: texts, pictures, or inputs of both.

Requests and replies: cohere-python, src/cohere/v2/raw_client.py (embed), src/cohere/raw_client.py (embed),
src/cohere/types/embed_by_type_response.py and src/cohere/types/embed_floats_response.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    Endpoint,
    ErrorFormat,
    Protocol,
    RequestInfo,
    Vector,
    json_body,
)
from clip_embeddings.protocols.content import Item, content_item, item_vectors, request_for
from clip_embeddings.protocols.items import base64_vector, parse_all

# https://docs.cohere.com/reference/embed
MAX_INPUTS = 96
FUNCTIONS = ("embed_text", "embed_image", "embed_mixed")


class EmbedBody(msgspec.Struct, kw_only=True):
    """Texts, pictures or inputs to embed: one list of the three."""

    model: str | None = None
    texts: list[Any] | None = None
    images: list[Any] | None = None
    inputs: list[Any] | None = None
    # `float` and `base64`, any of them.
    embedding_types: list[str] | None = None
    output_dimension: int | None = None
    # NONE refuses a text over the context length, END cuts it.
    truncate: str | None = None


class VectorsByType(msgspec.Struct, omit_defaults=True):
    """A vector per item, in each type that was asked for; base64 of little-endian float32."""

    float_: list[Vector] | msgspec.UnsetType = msgspec.field(name="float", default=msgspec.UNSET)
    base64: list[str] | msgspec.UnsetType = msgspec.UNSET


class BilledUnits(msgspec.Struct):
    """Tokens of all texts, and the number of pictures."""

    input_tokens: int
    images: int


class ApiVersion(msgspec.Struct):
    """The version of the API that was called."""

    version: str


class ReplyMeta(msgspec.Struct):
    """What the request used."""

    api_version: ApiVersion
    billed_units: BilledUnits


class EmbedReply(msgspec.Struct):
    """A vector per item. `images` describes pictures with Cohere; here it is empty."""

    id: str
    embeddings: VectorsByType | list[Vector]
    texts: list[str]
    images: list[dict[str, Any]]
    meta: ReplyMeta
    response_type: str


class CohereErrorReply(msgspec.Struct):
    """What went wrong, as a sentence."""

    message: str


def parse(body: EmbedBody, info: RequestInfo) -> EmbedRequest:
    """`texts`, `images` or `inputs`, with the options; `input_type` is ignored."""
    for kind in body.embedding_types or ():
        if kind not in ("float", "base64"):
            message = f"`embedding_types` may be float and base64; {kind[:50]!r} is not served here."
            raise ApiError(400, "encoding_unsupported", message, where="$.embedding_types")
    truncate = (body.truncate or "END").upper()
    if truncate not in ("END", "NONE"):
        message = "`truncate` must be END or NONE: texts are cut at their end only."
        raise ApiError(400, "truncate_unsupported", message, where="$.truncate")
    return request_for(
        _items(body),
        info.limits,
        MAX_INPUTS,
        model=body.model or None,
        dimensions=body.output_dimension,
        truncate=truncate == "END",
    )


def _items(body: EmbedBody) -> Sequence[Item]:
    """The items of the only list; their texts and pictures are not checked."""
    lists = [values for values in (body.texts, body.images, body.inputs) if values]
    if len(lists) != 1:
        message = "Send one of the lists `texts`, `images` and `inputs`, with at least one item."
        raise ApiError(400, "list_missing" if not lists else "list_ambiguous", message)
    if body.texts:
        return [{"text": value} for value in body.texts]
    if body.images:
        return [{"image": value} for value in body.images]
    return parse_all(
        lists[0], lambda value: content_item(value.get("content") if isinstance(value, dict) else value)
    )


def write_v1(body: EmbedBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """Plain vectors in `embeddings`, or vectors by type where the request has `embedding_types`."""
    if body.embedding_types:
        return _reply(body, result, _by_type(body, result), "1", "embeddings_by_type")
    return _reply(body, result, item_vectors(_items(body), result), "1", "embeddings_floats")


def write_v2(body: EmbedBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"id", "embeddings": {"float": [[f]]}, "texts", "images", "meta", "response_type"}`."""
    return _reply(body, result, _by_type(body, result), "2", "embeddings_by_type")


def _by_type(body: EmbedBody, result: EmbedResult) -> Mapping[str, Any]:
    vectors = item_vectors(_items(body), result)
    types = body.embedding_types or ["float"]
    by_type: dict[str, Any] = {}
    if "float" in types:
        by_type["float"] = vectors
    if "base64" in types:
        by_type["base64"] = [base64_vector(vector) for vector in vectors]
    return by_type


def _reply(
    body: EmbedBody, result: EmbedResult, embeddings: object, version: str, response_type: str
) -> Mapping[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "embeddings": embeddings,
        "texts": body.texts or [],
        "images": [],
        "meta": {
            "api_version": {"version": version},
            "billed_units": {
                "input_tokens": result.texts.tokens if result.texts else 0,
                "images": len(result.images.results) if result.images else 0,
            },
        },
        "response_type": response_type,
    }


PROTOCOL = Protocol(
    "cohere",
    (
        Endpoint(
            operation_id="cohere_embed",
            summary="Texts and pictures to vectors, as Cohere's API does",
            path="/v2/embed",
            body=json_body(EmbedBody),
            reply=EmbedReply,
            parse=parse,
            write=write_v2,
            functions=FUNCTIONS,
            example={"images": [EXAMPLE_IMAGE], "input_type": "image", "embedding_types": ["float"]},
        ),
        Endpoint(
            operation_id="cohere_embed_v1",
            summary="Texts and pictures to vectors, as version 1 of Cohere's API does",
            path="/v1/embed",
            body=json_body(EmbedBody),
            reply=EmbedReply,
            parse=parse,
            write=write_v1,
            functions=FUNCTIONS,
            example={"texts": ["birthday cake"], "input_type": "search_document"},
        ),
    ),
    errors=ErrorFormat(lambda error: {"message": error.message}, lambda status: CohereErrorReply),
    tag="Cohere",
)
