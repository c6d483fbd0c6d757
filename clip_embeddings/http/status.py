"""Routes about the function itself: what runs here, is it alive, is it ready, its documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
from flask import Response

from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.http.routing import RequestContext, Route
from clip_embeddings.logs import logger


class StatusReply(msgspec.Struct):
    """What runs here."""

    status: str
    model: str
    models: list[str]
    routes: list[str]


class HealthReply(msgspec.Struct):
    """The process is alive."""

    status: str
    model_loaded: bool
    model: str


class ReadyReply(msgspec.Struct):
    """Whether the towers are loaded and reproduce a known vector."""

    status: str
    model: str


def status_routes(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes every function has, beside its own `routes`."""

    def status(call: RequestContext) -> Any:
        runtime = call.runtime
        return {
            "status": f"{runtime.name} is running",
            "model": runtime.settings_model().manifest.name,
            "models": sorted(runtime.models),
            "routes": sorted({route.path for route in everything}),
        }

    def openapi(call: RequestContext) -> Any:
        from clip_embeddings.http.openapi import document

        return document(everything, call.runtime)

    def docs(call: RequestContext) -> Response:
        from clip_embeddings.http.openapi import document, page

        return page(document(everything, call.runtime))

    def own(path: str, operation: str, summary: str, answer: Any, reply: Any, **more: Any) -> Route:
        return Route("GET", path, operation, summary, answer, reply, tag="status", **more)

    page = next((route.page for route in routes if route.page), None)
    everything = (
        *routes,
        own("/", "status", "What runs here", status, StatusReply, page=page),
        own("/health", "health", "Alive", _health, HealthReply, open=True),
        own("/ready", "ready", "Loaded, and right", _ready, ReadyReply),
        own("/openapi.json", "openapi", "This document", openapi, {"type": "object"}),
        own("/docs", "docs", "This document as a page", docs, {"type": "string"}, media="text/html"),
    )
    return everything


def _health(call: RequestContext) -> Any:
    runtime = call.runtime
    return {
        "status": "healthy",
        "model_loaded": runtime.loaded(),
        "model": runtime.settings_model().manifest.name,
    }


def _ready(call: RequestContext) -> Any:
    runtime = call.runtime
    model = runtime.settings_model().manifest.name
    try:
        runtime.ready.get()
    except ModelError as error:
        logger.error("not ready: %s", error)
        body = orjson.dumps({"status": "not ready", "model": model})
        return Response(body, 503, mimetype="application/json")
    return {"status": "ready", "model": model}
