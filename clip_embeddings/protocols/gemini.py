"""The Gemini API's embedding methods: contents made of parts in, one vector per content out.

The shapes: google-genai, google/genai/models.py (`_embed_content`) and google/genai/types.py
(ContentEmbedding); https://ai.google.dev/api/embeddings. Google's JSON allows each field in camelCase and in
snake_case (https://protobuf.dev/programming-guides/json/), and Google's own examples for curl use both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_url
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, Endpoint, Protocol, RequestInfo, Vector, json_body
from clip_embeddings.protocols.google import GOOGLE_ERRORS, Dimensions, parse_base64, whole
from clip_embeddings.protocols.items import check_counts, item_error, mean_direction, parse_all, parse_text

# Contents of one batch in the Gemini API.
MAX_CONTENTS = 100


class InlineData(msgspec.Struct):
    """A picture's bytes in base64. The declared type is not used."""

    data: str


class FileData(msgspec.Struct, kw_only=True):
    """Where a picture is: an http(s) or gs:// URL."""

    camel: str | None = msgspec.field(default=None, name="fileUri")
    snake: str | None = msgspec.field(default=None, name="file_uri")


class Part(msgspec.Struct, kw_only=True):
    """A text or a picture."""

    text: str | None = None
    inline_camel: InlineData | None = msgspec.field(default=None, name="inlineData")
    inline_snake: InlineData | None = msgspec.field(default=None, name="inline_data")
    file_camel: FileData | None = msgspec.field(default=None, name="fileData")
    file_snake: FileData | None = msgspec.field(default=None, name="file_data")


class Content(msgspec.Struct):
    """What gets one vector. That of several parts is the mean of theirs, scaled to length 1."""

    parts: Annotated[list[Part], Meta(min_length=1)]


class EmbedConfig(msgspec.Struct, kw_only=True):
    """Options of one content. Task type and title are accepted and have no effect."""

    camel: Dimensions | None = msgspec.field(default=None, name="outputDimensionality")
    snake: Dimensions | None = msgspec.field(default=None, name="output_dimensionality")
    # Vertex AI only.
    may_cut_camel: bool | None = msgspec.field(default=None, name="autoTruncate")
    may_cut_snake: bool | None = msgspec.field(default=None, name="auto_truncate")


class ContentBody(EmbedConfig, kw_only=True):
    """A content to embed."""

    content: Content
    model: Annotated[str | None, Meta(description="The path's model, if given.")] = None
    config_camel: EmbedConfig | None = msgspec.field(default=None, name="embedContentConfig")
    config_snake: EmbedConfig | None = msgspec.field(default=None, name="embed_content_config")


class BatchBody(msgspec.Struct):
    """Contents to embed."""

    requests: Annotated[list[ContentBody], Meta(min_length=1)]


class ContentEmbedding(msgspec.Struct):
    """A vector."""

    values: Vector


class ContentReply(msgspec.Struct):
    """The vector of the content."""

    embedding: ContentEmbedding


class BatchReply(msgspec.Struct):
    """A vector per content."""

    embeddings: list[ContentEmbedding]


def parse_content(body: ContentBody, info: RequestInfo) -> EmbedRequest:
    """`{"content": {"parts": [{"text"} or {"inlineData": {"mimeType", "data"}}]}}`."""
    return _parse([body], info)


def parse_batch(body: BatchBody, info: RequestInfo) -> EmbedRequest:
    """`{"requests": [{"model"?, "content"}]}`."""
    return _parse(body.requests, info)


def write_content(body: ContentBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embedding": {"values": [f]}}`."""
    (vector,) = _vectors([body], result)
    return {"embedding": {"values": vector}}


def write_batch(body: BatchBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embeddings": [{"values": [f]}]}`."""
    return {"embeddings": [{"values": vector} for vector in _vectors(body.requests, result)]}


def _parse(requests: Sequence[ContentBody], info: RequestInfo) -> EmbedRequest:
    model = info.path_params["model"]
    parsed = parse_all(requests, lambda request: _parse_request(request, model, info))
    items = [item for parts, _ in parsed for item in parts]
    texts = [item for item in items if isinstance(item, str)]
    images = [item for item in items if not isinstance(item, str)]
    check_counts(len(texts), len(images), info.limits, MAX_CONTENTS)
    expected = {dimensions for _, dimensions in parsed if dimensions is not None}
    if len(expected) > 1:
        message = "The requests of a batch must not expect different dimensions."
        raise ApiError(400, "dimensions_invalid", message)
    may_cut = not any(
        False in (config.may_cut_camel, config.may_cut_snake)
        for request in requests
        for config in _configs(request)
    )
    dimensions = next(iter(expected), None)
    return EmbedRequest(
        texts, images, model=model, dimensions=dimensions, truncate=may_cut, all_or_nothing=True
    )


def _configs(request: ContentBody) -> Sequence[EmbedConfig]:
    """Where the options of a content may be."""
    return [config for config in (request, request.config_camel, request.config_snake) if config]


def _parse_request(value: object, model: str, info: RequestInfo) -> tuple[Sequence[str | Source], int | None]:
    """The parts of a content, and the dimensions that it expects. Raises ApiError."""
    assert isinstance(value, ContentBody)
    if value.model and value.model.rpartition("models/")[2] != model:
        message = f"`model` is {value.model[:100]!r}, but the path names {model[:100]!r}."
        raise ApiError(400, "model_ambiguous", message)
    given = (config.camel or config.snake for config in _configs(value))
    dimensions = next((number for number in given if number is not None), None)
    return [_parse_part(part, info) for part in value.content.parts], whole(dimensions)


def _is_text(part: Part) -> bool:
    return part.text is not None


def _parse_part(part: Part, info: RequestInfo) -> str | Source:
    inline, file = part.inline_camel or part.inline_snake, part.file_camel or part.file_snake
    if sum((_is_text(part), inline is not None, file is not None)) != 1:
        message = "A part must have exactly one of `text`, `inlineData` and `fileData`."
        raise ApiError(400, "part_invalid", message)
    if inline is not None:
        return parse_base64(inline.data, info.limits.image_bytes)
    if file is not None:
        return parse_url(file.camel or file.snake, info.limits.image_bytes)
    return parse_text(part.text, info.limits)


def _vectors(requests: Sequence[ContentBody], result: EmbedResult) -> Sequence[np.ndarray]:
    """A vector per content. Raises the ApiError of the first part that failed, with its content's index."""
    texts = iter(result.texts.results if result.texts else ())
    images = iter(result.images.results if result.images else ())
    vectors = []
    for index, request in enumerate(requests):
        parts = []
        for part in request.content.parts:
            vector = next(texts if _is_text(part) else images)
            if isinstance(vector, ApiError):
                raise item_error(vector, index, len(requests))
            parts.append(vector)
        vectors.append(parts[0] if len(parts) == 1 else mean_direction(parts))
    return vectors


EXAMPLE = {
    "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": EXAMPLE_IMAGE.partition(",")[2]}}]}
}


BATCH_EXAMPLE = {"requests": [{"content": {"parts": [{"text": "birthday cake"}]}}, EXAMPLE]}

# Vertex AI has the method for single contents too: google-genai calls it there for the Gemini models.
VERTEX = "projects/{project}/locations/{location}/publishers/google/models/{model:path}"


def _embed_content(operation_id: str, path: str) -> Endpoint:
    return Endpoint(
        operation_id=operation_id,
        summary="A text, a picture or several to a vector, as the Gemini API does",
        path=f"{path}:embedContent",
        body=json_body(ContentBody),
        reply=ContentReply,
        parse=parse_content,
        write=write_content,
        functions=("embed_text", "embed_image", "embed_mixed"),
        example=EXAMPLE,
    )


def _batch(operation_id: str, path: str) -> Endpoint:
    return Endpoint(
        operation_id=operation_id,
        summary="Texts and pictures to vectors, as the Gemini API does",
        path=f"{path}:batchEmbedContents",
        body=json_body(BatchBody),
        reply=BatchReply,
        parse=parse_batch,
        write=write_batch,
        functions=("embed_text", "embed_image", "embed_mixed"),
        example=BATCH_EXAMPLE,
    )


PROTOCOL = Protocol(
    "gemini",
    (
        _embed_content("gemini_v1beta_embed_content", "/v1beta/models/{model:path}"),
        _batch("gemini_v1beta_batch_embed_contents", "/v1beta/models/{model:path}"),
        _embed_content("gemini_v1_embed_content", "/v1/models/{model:path}"),
        _batch("gemini_v1_batch_embed_contents", "/v1/models/{model:path}"),
        _embed_content("vertex_v1_embed_content", f"/v1/{VERTEX}"),
        _embed_content("vertex_v1beta1_embed_content", f"/v1beta1/{VERTEX}"),
    ),
    errors=GOOGLE_ERRORS,
    tag="Gemini",
)
