"""The protocol of Hugging Face's Text Embeddings Inference (TEI): texts in, a bare list of vectors out.

Source: huggingface/text-embeddings-inference, router/src/http/types.rs (bodies), router/src/lib.rs (`Info`,
`ErrorType`), router/src/http/server.rs (how `truncate` counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from clip_embeddings import __version__
from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.engine.model import TEXT_ROWS
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import (
    Endpoint,
    ErrorFormat,
    Lookup,
    Protocol,
    RequestInfo,
    Strings,
    Vector,
    json_body,
)
from clip_embeddings.protocols.items import all_vectors, parse_all, parse_text
from clip_embeddings.runtime import Runtime

NAME = "tei"
# Status of a request that TEI's `Validation` is for.
INVALID = 422
# What TEI accepts in one request if nothing else is configured: its option --max-client-batch-size.
MAX_INPUTS = 32


class EmbedBody(msgspec.Struct):
    """One text or several."""

    inputs: str | Strings
    truncate: Annotated[
        bool | None, Meta(description="Whether longer texts are cut at the context length, or refused.")
    ] = None
    truncation_direction: Annotated[
        str | None, Meta(description="Texts are cut on the right; one that `Left` would cut is refused.")
    ] = None
    prompt_name: Annotated[
        str | None, Meta(description="Models served here have no prompts: any name is refused.")
    ] = None
    normalize: bool | None = None
    dimensions: Annotated[int | None, Meta(description="Any but the model's own number is refused.")] = None


class EmbeddingModel(msgspec.Struct):
    """How the model makes one vector of a text."""

    pooling: str


class ModelType(msgspec.Struct):
    """What the model is for."""

    embedding: EmbeddingModel


class InfoReply(msgspec.Struct, kw_only=True):
    """The model that answers, and the limits of the service."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class TeiErrorReply(msgspec.Struct):
    """What went wrong, as a sentence, and whose fault it is."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


def parse_inputs(body: EmbedBody, info: RequestInfo) -> EmbedRequest:
    """`{"inputs": str | [str]}`. Raises ApiError 400 for an empty list, 422 for what is not served."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not texts:
        raise ApiError(400, "list_missing", "`inputs` is an empty list.")
    most = _max_inputs(info.limits)
    if len(texts) > most:
        message = f"The request has {len(texts):,} inputs; {most:,} are allowed."
        raise ApiError(INVALID, "too_many_items", message)
    if body.prompt_name is not None:
        raise ApiError(INVALID, "prompt_unknown", "The models served here have no prompts.")
    if body.truncation_direction not in (None, "Left", "Right", "left", "right"):
        message = "`truncation_direction` must be `Left` or `Right`."
        raise ApiError(INVALID, "body_invalid", message, where="$.truncation_direction")
    return EmbedRequest(
        texts=parse_all(texts, lambda item: _parse_input(item, info.limits)),
        normalize=body.normalize,
        dimensions=body.dimensions,
        # A text that `Left` would cut is refused: texts are cut on the right only.
        truncate=body.truncate is not False and body.truncation_direction not in ("Left", "left"),
        all_or_nothing=True,
    )


def write_vectors(body: EmbedBody, result: EmbedResult, info: RequestInfo) -> Sequence[np.ndarray]:
    """`[[f]]`, also for one text."""
    assert result.texts is not None
    return all_vectors(result.texts)


def model_info(runtime: Runtime, path_params: Mapping[str, str]) -> Any:
    """What a TEI server says about itself. Raises ApiError 400 if the model has no text tower."""
    settings, manifest = runtime.settings, runtime.choose(None, NAME).manifest
    tower = manifest.towers.get("text")
    if tower is None or tower.text is None:
        message = f"The model {manifest.name!r} has no text tower: it cannot embed texts."
        raise ApiError(400, "tower_missing", message)
    # CLIP takes the vector at the end-of-text token. Other text towers differ, and the graph does not tell.
    pooling = "last_token" if tower.text.kind == "clip" else "unknown"
    reply = InfoReply(
        model_id=manifest.name,
        model_sha=manifest.space,
        model_dtype={"fp32": "float32"}.get(tower.precision, tower.precision),
        served_model_name=manifest.name,
        model_type=ModelType(EmbeddingModel(pooling)),
        # One request runs; the others wait for it.
        max_concurrent_requests=settings.queue + 1,
        max_input_length=tower.text.context_length,
        max_batch_tokens=tower.text.context_length * TEXT_ROWS,
        max_batch_requests=TEXT_ROWS,
        max_client_batch_size=_max_inputs(settings.limits),
        auto_truncate=True,
        tokenization_workers=1,
        version=__version__,
        sha=None,
        docker_label=None,
    )
    return msgspec.to_builtins(reply)


def _max_inputs(limits: Limits) -> int:
    return max(MAX_INPUTS, limits.items)


def _parse_input(item: object, limits: Limits) -> str:
    if isinstance(item, int | list):
        # TEI takes the ids of its own model's tokenizer; of another one, they would be nonsense here.
        message = "Token ids are not accepted, because they belong to another tokenizer: send the text."
        raise ApiError(INVALID, "token_ids_unsupported", message)
    if not isinstance(item, str):
        raise ApiError(INVALID, "text_not_a_string", "An input must be a string.")
    return parse_text(item, limits)


def _error_body(error: ApiError) -> Mapping[str, Any]:
    if error.status == 429:
        kind = "Overloaded"
    elif error.status == 503:
        kind = "Unhealthy"
    elif error.status >= 500:
        kind = "Backend"
    else:
        kind = "Empty" if error.code == "list_missing" else "Validation"
    return {"error": error.message, "error_type": kind}


PROTOCOL = Protocol(
    NAME,
    (
        Endpoint(
            operation_id="tei_embed",
            summary="Texts to vectors",
            path="/embed",
            keys=("inputs",),
            at_root=True,
            body=json_body(EmbedBody, invalid_status=INVALID),
            reply=list[Vector],
            parse=parse_inputs,
            write=write_vectors,
            functions=("embed_text", "embed_mixed"),
            example={"inputs": ["birthday cake", "fire engine"], "normalize": True},
        ),
    ),
    lookups=(
        Lookup(
            operation_id="tei_info",
            summary="The model and the limits",
            path="/info",
            reply=InfoReply,
            handler=model_info,
            functions=("embed_text", "embed_mixed"),
            error_statuses=(400,),
        ),
    ),
    errors=ErrorFormat(
        write=_error_body,
        schema=lambda status: TeiErrorReply,
        statuses={"dimensions_unsupported": INVALID, "text_over_context": INVALID},
    ),
    tag="Text Embeddings Inference",
)
