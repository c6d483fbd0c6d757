"""The OpenAI protocol, and the ways in which servers that speak it take pictures.

Requests and replies: openai-python, src/openai/resources/embeddings.py and src/openai/types/. Pictures come
on the same path, as any of three servers takes them: objects in `input` (Jina's embeddings API), a `modality`
(infinity, libs/infinity_emb/infinity_emb/fastapi_schemas/pymodels.py), or chat `messages` (vLLM,
docs/models/pooling_models.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import (
    OPENAI_MAX_ITEMS,
    Endpoint,
    ErrorFormat,
    Lookup,
    Protocol,
    RequestInfo,
    Vector,
    json_body,
)
from clip_embeddings.protocols.content import Item, content_item, item_vectors, request_for
from clip_embeddings.protocols.items import base64_vector, parse_all
from clip_embeddings.runtime import Runtime

FUNCTIONS = ("embed_text", "embed_image", "embed_mixed")

Input = Annotated[
    Any,
    Meta(
        description="Texts, or objects with a `text` or an `image`: a URL, a data URI or base64.",
        extra_json_schema={"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}, {"type": "null"}]},
    ),
]


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """Texts and pictures to embed: `input`, or `messages` for one item."""

    model: str | None = None
    input: Input = None
    messages: list[Any] | None = None
    # `float` or `base64`. Jina calls it `embedding_type`.
    encoding_format: str | None = None
    embedding_type: str | None = None
    dimensions: int | None = None
    # Jina's: false asks for the raw projections.
    normalized: bool | None = None
    # infinity's: `text` or `image`.
    modality: str | None = None


class Embedding(msgspec.Struct):
    """The vector of one item: numbers, or base64 of little-endian float32."""

    object: str
    index: int
    embedding: Vector | str


class Usage(msgspec.Struct):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(msgspec.Struct):
    """A vector per item, in the request's order."""

    object: str
    data: list[Embedding]
    model: str
    usage: Usage


class ModelReply(msgspec.Struct):
    """A model that is served. It has no known date: `created` is 0."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelsReply(msgspec.Struct):
    """The models that are served."""

    object: str
    data: list[ModelReply]


class OpenAIError(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorReply(msgspec.Struct):
    """The reply to a request that failed."""

    error: OpenAIError


# Names that OpenAI's own API gives to errors that have one of ours too.
CODES = {
    "model_unknown": "model_not_found",
    "api_key_required": "invalid_api_key",
    "overloaded": "rate_limit_exceeded",
}
TYPES = {401: "authentication_error", 429: "rate_limit_exceeded"}


def write_error(error: ApiError) -> Mapping[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = "server_error" if error.status >= 500 else TYPES.get(error.status, "invalid_request_error")
    # The first key of a path such as `$.input[3].image`.
    param = (error.where or "$").removeprefix("$").lstrip(".").partition(".")[0].partition("[")[0]
    if error.code == "model_unknown":
        param = "model"
    code = CODES.get(error.code, error.code)
    return {"error": {"message": error.message, "type": kind, "param": param or None, "code": code}}


def parse(body: EmbeddingsBody, info: RequestInfo) -> EmbedRequest:
    """`input` or `messages`, with the options of every dialect."""
    for name, value in (("encoding_format", body.encoding_format), ("embedding_type", body.embedding_type)):
        if value not in (None, "float", "base64"):
            message = f"`{name}` must be float or base64; {value[:50]!r} is not served here."
            raise ApiError(400, "encoding_unsupported", message, where=f"$.{name}")
    return request_for(
        _items(body),
        info.limits,
        OPENAI_MAX_ITEMS,
        model=body.model or None,
        normalize=body.normalized,
        dimensions=body.dimensions,
    )


def _items(body: EmbeddingsBody) -> Sequence[Item]:
    """The items of `messages` or `input`; their texts and pictures are not checked."""
    if body.messages is not None:
        return [_message_item(body.messages)]
    if body.input is None:
        message = "The body has no field `input`."
        raise ApiError(400, "field_missing", message, where="$.input")
    values = body.input if isinstance(body.input, list) else [body.input]
    if not values:
        raise ApiError(400, "input_empty", "`input` must have at least one item.", where="$.input")
    if body.modality == "image":
        return [{"image": value} for value in values]
    if body.modality not in (None, "text"):
        message = f"`modality` must be text or image; {body.modality[:50]!r} is not served here."
        raise ApiError(400, "modality_unsupported", message, where="$.modality")
    return parse_all(values, _input_item)


def _input_item(value: object) -> Item:
    if isinstance(value, (int, list)):
        message = (
            "Token ids are those of another tokenizer; send texts. In langchain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False)."
        )
        raise ApiError(400, "token_ids_unsupported", message, where="$.input")
    if not isinstance(value, dict):
        return _text_item(value)
    kinds = [kind for kind in ("text", "image") if value.get(kind) is not None]
    if len(kinds) != 1:
        message = "An object in `input` must have either a `text` or an `image`."
        raise ApiError(400, "input_invalid", message, where="$.input")
    return _text_item(value["text"]) if kinds == ["text"] else {"image": value["image"]}


def _text_item(text: object) -> Item:
    if text == "":
        raise ApiError(400, "input_empty", "A text in `input` must not be empty.", where="$.input")
    return {"text": text}


def _message_item(messages: Sequence[object]) -> Item:
    """The one item that all messages together are."""
    parts: list[object] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
    # Clients that ask for a picture's vector send an empty prompt all the same.
    return content_item([part for part in parts if part != {"type": "text", "text": ""}])


def write(body: EmbeddingsBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"object": "list", "data": [{"object", "index", "embedding"}], "model", "usage"}`."""
    vectors: Sequence[Any] = item_vectors(_items(body), result)
    if (body.encoding_format or body.embedding_type) == "base64":
        vectors = [base64_vector(vector) for vector in vectors]
    tokens = result.texts.tokens if result.texts else 0
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": result.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def list_models(runtime: Runtime, path_params: Mapping[str, str]) -> Mapping[str, Any]:
    """`{"object": "list", "data": [{"id", "object", "created", "owned_by"}]}`."""
    return {"object": "list", "data": [_model(name) for name in runtime.models]}


def find_model(runtime: Runtime, path_params: Mapping[str, str]) -> Mapping[str, Any]:
    """The model that requests with this name get. Raises ApiError 404."""
    return _model(runtime.choose(path_params["id"], PROTOCOL.name).manifest.name)


def _model(name: str) -> Mapping[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "clip-embedding-functions"}


def _embeddings(path: str, operation_id: str) -> Endpoint:
    return Endpoint(
        operation_id=operation_id,
        summary="Texts and pictures to vectors, as OpenAI's API does",
        path=path,
        body=json_body(EmbeddingsBody),
        reply=EmbeddingsReply,
        parse=parse,
        write=write,
        functions=FUNCTIONS,
        example={"input": ["birthday cake", "fire engine"]},
    )


def _models(path: str, operation_id: str) -> Lookup:
    return Lookup(operation_id, "The models", path, ModelsReply, list_models, FUNCTIONS)


def _model_lookup(path: str, operation_id: str) -> Lookup:
    return Lookup(operation_id, "One model", path, ModelReply, find_model, FUNCTIONS, (404,))


PROTOCOL = Protocol(
    "openai",
    (
        _embeddings("/v1/embeddings", "openai_embeddings"),
        _embeddings("/embeddings", "openai_embeddings_bare"),
    ),
    (
        _models("/v1/models", "openai_models"),
        _models("/models", "openai_models_bare"),
        _model_lookup("/v1/models/{id:path}", "openai_model"),
        _model_lookup("/models/{id:path}", "openai_model_bare"),
    ),
    errors=ErrorFormat(write_error, lambda status: OpenAIErrorReply),
    tag="OpenAI",
)
