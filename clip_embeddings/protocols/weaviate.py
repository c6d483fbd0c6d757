"""The protocols of Weaviate's inference containers: those of multi2vec-clip, and of text2vec-transformers.

Sources: weaviate/weaviate, modules/multi2vec-clip/clients (the client: bodies, the 500 ms of its readiness
check, `error` as a string) and usecases/modulecomponents/clients/transformers/transformers.go;
weaviate/multi2vec-clip-inference and weaviate/t2v-transformers-models, app.py (the servers). The clients send
JSON without a Content-Type.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings import __version__
from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image
from clip_embeddings.logs import logger
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    PLAIN_ERRORS,
    Body,
    Endpoint,
    Lookup,
    Protocol,
    RequestInfo,
    Strings,
    Vector,
)
from clip_embeddings.protocols.items import all_vectors, check_count, parse_all, parse_text
from clip_embeddings.runtime import Runtime

NAME = "weaviate"
# Weaviate gives up a readiness check after 0.5 s, the network's time included.
READY_SECONDS = 0.25
FUNCTIONS = ("embed_text", "embed_mixed")

# One thread loads the towers. It has full priority, and the model's threads inherit that.
_loader = ThreadPoolExecutor(1, thread_name_prefix="ready")


class VectorizeBody(msgspec.Struct):
    """Texts, pictures or both. A missing list counts as empty."""

    texts: Strings | None = None
    images: Annotated[Strings, Meta(description="Base64, data URIs, or http(s) or gs:// URLs.")] | None = None


class VectorizeReply(msgspec.Struct):
    """A vector per text and per picture."""

    textVectors: list[Vector]  # noqa: N815 - the client's own name
    imageVectors: list[Vector]  # noqa: N815 - the client's own name


class TextConfig(msgspec.Struct):
    """Options of text2vec-transformers; those not named here are ignored."""

    dimensions: Annotated[int | None, Meta(description="Any but the model's own number is refused.")] = None


class TextBody(msgspec.Struct):
    """One text."""

    text: str
    config: TextConfig | None = None


class TextReply(msgspec.Struct):
    """The text, its vector, and the vector's length."""

    text: str
    vector: Vector
    dim: int


def parse_vectorize(body: VectorizeBody, info: RequestInfo) -> EmbedRequest:
    """`{"texts"?: [str], "images"?: [str]}`."""
    limits, texts, images = info.limits, body.texts or [], body.images or []
    check_count(len(texts) + len(images), limits.items)
    return EmbedRequest(
        texts=parse_all(texts, lambda item: parse_text(item, limits), "texts"),
        images=parse_all(images, lambda item: parse_image(item, limits.image_bytes), "images"),
        all_or_nothing=True,
    )


def write_vectorize(body: VectorizeBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"textVectors": [[f]], "imageVectors": [[f]]}`."""
    return {
        "textVectors": all_vectors(result.texts, "texts") if result.texts else [],
        "imageVectors": all_vectors(result.images, "images") if result.images else [],
    }


def parse_one(body: TextBody, info: RequestInfo) -> EmbedRequest:
    """`{"text": str}`."""
    dimensions = body.config.dimensions if body.config else None
    return EmbedRequest(texts=[parse_text(body.text, info.limits)], dimensions=dimensions)


def write_one(body: TextBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"text": str, "vector": [f], "dim": n}`."""
    assert result.texts is not None
    vector = only_vector(result.texts)
    return {"text": body.text, "vector": vector, "dim": len(vector)}


def live(runtime: Runtime, path_params: Mapping[str, str]) -> None:
    """Answers while the process lives."""


def ready(runtime: Runtime, path_params: Mapping[str, str]) -> None:
    """Answers once a vector can be made, and starts to load the model if nothing else has.

    Raises:
        ApiError: 503 while the model is loading, or if that fails.
        OverloadedError: too many requests wait for the model.
    """
    if runtime.is_ready():
        return
    loading = _loader.submit(_load, runtime)
    try:
        loaded = loading.result(READY_SECONDS)
    except TimeoutError:
        # A load in progress goes on; a check that still waits for one is dropped.
        loading.cancel()
        raise ApiError(503, "not_ready", "The model is still loading.", retry_after=1) from None
    if not loaded:
        raise ApiError(503, "not_ready", "The model cannot be loaded; the log says why.")


def _load(runtime: Runtime) -> bool:
    """Whether the model is loaded. What failed is logged here, because no check may be waiting any more."""
    try:
        runtime.open_towers()
    except ModelError as error:
        logger.error("not ready: %s", error)
    except Exception:
        logger.exception("not ready")
    else:
        return True
    return False


def meta(runtime: Runtime, path_params: Mapping[str, str]) -> Mapping[str, Any]:
    """What Weaviate shows of the model in its own /v1/meta; the keys are free."""
    manifest = runtime.choose(None, NAME).manifest
    return {
        "model": manifest.name,
        "architecture": manifest.architecture,
        "pretrained": manifest.pretrained,
        "dimensions": manifest.dimensions,
        "space": manifest.space,
        "version": __version__,
    }


def _json(schema: Any) -> Body:
    return Body("json", ("application/json", ""), schema)


PROTOCOL = Protocol(
    NAME,
    (
        Endpoint(
            operation_id="weaviate_vectorize",
            summary="Texts and pictures to vectors of one space",
            path="/vectorize",
            body=_json(VectorizeBody),
            reply=VectorizeReply,
            parse=parse_vectorize,
            write=write_vectorize,
            functions=("embed_mixed",),
            example={"texts": ["birthday cake"], "images": [EXAMPLE_IMAGE.partition(",")[2]]},
        ),
        Endpoint(
            operation_id="weaviate_vectors",
            summary="A text to a vector",
            path="/vectors",
            body=_json(TextBody),
            reply=TextReply,
            parse=parse_one,
            write=write_one,
            functions=FUNCTIONS,
            example={"text": "birthday cake"},
        ),
    ),
    lookups=(
        Lookup(
            operation_id="weaviate_live",
            summary="Alive",
            path="/.well-known/live",
            reply=None,
            handler=live,
            functions=FUNCTIONS,
            status=204,
            public=True,
        ),
        Lookup(
            operation_id="weaviate_ready",
            summary="Loaded, and right",
            path="/.well-known/ready",
            reply=None,
            handler=ready,
            functions=FUNCTIONS,
            error_statuses=(429, 503),
            status=204,
            public=True,
        ),
        Lookup(
            operation_id="weaviate_meta",
            summary="The model",
            path="/meta",
            reply={"type": "object"},
            handler=meta,
            functions=FUNCTIONS,
        ),
    ),
    errors=PLAIN_ERRORS,
    tag="Weaviate",
)
