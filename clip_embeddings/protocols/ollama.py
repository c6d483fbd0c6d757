"""Ollama's protocol: texts to vectors, and the list of models.

Requests and replies: ollama, server/routes.go (EmbedHandler, EmbeddingsHandler, ListHandler) and
api/types.go; ollama-python, ollama/_types.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings import __version__
from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.engine.manifest import Manifest
from clip_embeddings.protocols.base import (
    JSON,
    OPENAI_MAX_ITEMS,
    PLAIN_ERRORS,
    Body,
    Endpoint,
    Lookup,
    Protocol,
    RequestInfo,
    Vector,
)
from clip_embeddings.protocols.items import all_vectors, check_count, parse_all, parse_text
from clip_embeddings.runtime import Runtime

FUNCTIONS = ("embed_text", "embed_mixed")
# Ollama's documentation posts JSON with `curl -d`, which calls it a form.
MEDIA = (*JSON, "application/x-www-form-urlencoded")

Input = Annotated[
    Any,
    Meta(
        description="A text or a list of texts.",
        extra_json_schema={
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]
        },
    ),
]


class EmbedBody(msgspec.Struct, kw_only=True):
    """Texts to embed."""

    model: str | None = None
    input: Input = None
    # Whether texts are cut at the context length; if not, a longer one is refused.
    truncate: bool | None = None
    dimensions: int | None = None


class EmbedReply(msgspec.Struct):
    """A vector per text. Durations are in nanoseconds."""

    model: str
    embeddings: list[Vector]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class PromptBody(msgspec.Struct, kw_only=True):
    """One text to embed, as older clients send it."""

    model: str | None = None
    prompt: str | None = None


class PromptReply(msgspec.Struct):
    """The vector."""

    embedding: Vector


class ModelDetails(msgspec.Struct):
    """How a model was made."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ModelReply(msgspec.Struct):
    """A model that is served. It has no known date: `modified_at` is the beginning of 1970."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class TagsReply(msgspec.Struct):
    """The models that are served."""

    models: list[ModelReply]


class VersionReply(msgspec.Struct):
    """The version of these functions, not one of Ollama's."""

    version: str


def _model_name(name: str | None) -> str | None:
    """The name without Ollama's tag for the default version, which its clients may add."""
    return name.removesuffix(":latest") or None if name else None


def _inputs(body: EmbedBody) -> Sequence[object]:
    """The texts, not checked. As with Ollama, null and an empty text alone are no text."""
    if isinstance(body.input, list):
        return body.input
    return [] if body.input in (None, "") else [body.input]


def parse(body: EmbedBody, info: RequestInfo) -> EmbedRequest:
    """`{"model", "input": str or [str], "truncate"?, "dimensions"?}`; `options` and others are ignored."""
    inputs = _inputs(body)
    check_count(len(inputs), max(OPENAI_MAX_ITEMS, info.limits.items))
    return EmbedRequest(
        parse_all(inputs, lambda item: parse_text(item, info.limits)),
        model=_model_name(body.model),
        # With Ollama, 0 is the same as none.
        dimensions=body.dimensions or None,
        truncate=body.truncate is not False,
        all_or_nothing=True,
    )


def write(body: EmbedBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}`."""
    milliseconds = info.timings.milliseconds()
    return {
        # Ollama repeats the name in the request.
        "model": body.model or result.model,
        "embeddings": all_vectors(result.texts) if result.texts else [],
        "total_duration": _nanoseconds(milliseconds["total"]),
        "load_duration": _nanoseconds(milliseconds.get("load", 0.0)),
        "prompt_eval_count": result.texts.tokens if result.texts else 0,
    }


def _nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1_000_000)


def parse_prompt(body: PromptBody, info: RequestInfo) -> EmbedRequest:
    """`{"model", "prompt": str}`."""
    texts = [parse_text(body.prompt, info.limits)] if body.prompt else []
    return EmbedRequest(texts, model=_model_name(body.model))


def write_prompt(body: PromptBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"embedding": [f]}`; as with Ollama, no numbers for no prompt."""
    return {"embedding": all_vectors(result.texts)[0] if result.texts else []}


def tags(runtime: Runtime, path_params: Mapping[str, str]) -> Mapping[str, Any]:
    """`{"models": [{"name", "model", "modified_at", "size", "digest", "details"}]}`."""
    return {"models": [_tag(model.manifest, runtime.towers) for model in runtime.models.values()]}


def _tag(manifest: Manifest, served: Sequence[str]) -> Mapping[str, Any]:
    towers = [manifest.towers[name] for name in served if name in manifest.towers]
    files = [file for tower in towers for file in tower.files]
    return {
        "name": manifest.name,
        "model": manifest.name,
        "modified_at": "1970-01-01T00:00:00Z",
        "size": sum(file.bytes for file in files),
        "digest": files[0].sha256 if files else "",
        "details": {
            "parent_model": "",
            "format": "onnx",
            "family": manifest.architecture,
            "families": [manifest.architecture],
            "parameter_size": "",
            "quantization_level": towers[0].precision if towers else "",
        },
    }


def version(runtime: Runtime, path_params: Mapping[str, str]) -> Mapping[str, Any]:
    """`{"version": str}`."""
    return {"version": __version__}


PROTOCOL = Protocol(
    "ollama",
    (
        Endpoint(
            operation_id="ollama_embed",
            summary="Texts to vectors, as Ollama does",
            path="/api/embed",
            body=Body("json", MEDIA, EmbedBody),
            reply=EmbedReply,
            parse=parse,
            write=write,
            functions=FUNCTIONS,
            example={"input": ["birthday cake", "fire engine"]},
        ),
        Endpoint(
            operation_id="ollama_embeddings",
            summary="A text to a vector, as Ollama's older clients ask for it",
            path="/api/embeddings",
            body=Body("json", MEDIA, PromptBody),
            reply=PromptReply,
            parse=parse_prompt,
            write=write_prompt,
            functions=FUNCTIONS,
            example={"prompt": "birthday cake"},
        ),
    ),
    (
        Lookup("ollama_tags", "The models", "/api/tags", TagsReply, tags, FUNCTIONS),
        Lookup("ollama_version", "The version", "/api/version", VersionReply, version, FUNCTIONS),
    ),
    errors=PLAIN_ERRORS,
    tag="Ollama",
)
