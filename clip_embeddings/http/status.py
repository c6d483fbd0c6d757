"""Routes about the function itself: what it serves, liveness, readiness, its documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson
from flask import Response

from clip_embeddings.config import Settings
from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.http.routing import RequestContext, Route
from clip_embeddings.logs import logger


class StatusReply(msgspec.Struct):
    """What this function serves."""

    status: str
    # The notebook API's name for it.
    message: str
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


def status_routes(
    all_routes: Callable[[], Sequence[Route]], own: Sequence[Route], docs_page: str
) -> tuple[Route, ...]:
    """The routes that every function has.

    Args:
        all_routes: gives every route of the function, these included.
        own: the function's routes beside its protocols'. The first page among them is the page at `/`.
        docs_page: `light` or `swagger`.

    Raises:
        ConfigError: Swagger UI is asked for, and its package is missing.
    """

    def status(context: RequestContext) -> Any:
        runtime = context.runtime
        running = f"{runtime.name} is running"
        return {
            "status": running,
            "message": running,
            "model": runtime.default_model().manifest.name,
            "models": sorted(runtime.models),
            "routes": sorted({route.documented_path for route in all_routes()}),
        }

    def openapi(context: RequestContext) -> Any:
        from clip_embeddings.http.openapi import document

        return document(all_routes(), context.runtime)

    def docs(context: RequestContext) -> Response:
        from clip_embeddings.http.docs_page import docs_page
        from clip_embeddings.http.openapi import document

        return docs_page(document(all_routes(), context.runtime))

    def get(path: str, operation_id: str, summary: str, handler: Any, reply: Any, **options: Any) -> Route:
        return Route("GET", path, operation_id, summary, handler, reply, tag="status", **options)

    docs_options: dict[str, Any] = {"reply_media": "text/html"}
    docs_files: tuple[Route, ...] = ()
    if docs_page == "swagger":
        from clip_embeddings.http.swagger import swagger_page, swagger_routes

        docs_options["page"] = swagger_page
        docs_files = swagger_routes()
    page = next((route.page for route in own if route.page), None)
    return (
        get("/", "status", "What runs here", status, StatusReply, page=page),
        get("/health", "health", "Whether the process responds", _health, HealthReply, public=True),
        get(
            "/ready",
            "ready",
            "Whether the towers load and reproduce their canary vectors",
            _ready,
            ReadyReply,
            public=True,
        ),
        get("/openapi.json", "openapi", "This document", openapi, {"type": "object"}),
        get("/docs", "docs", "This document as a page", docs, {"type": "string"}, **docs_options),
        *docs_files,
    )


def health_routes(settings: Settings) -> tuple[Route, ...]:
    """The route at AIP_HEALTH_ROUTE, if that is set. It answers as `/ready` does.

    Vertex AI sends no key, so the route is public: requests to a custom container,
    https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements#health.
    """
    if settings.aip_health_route is None:
        return ()
    route = Route(
        "GET",
        settings.aip_health_route,
        "vertex_health",
        "Loaded, and right, for Vertex AI",
        _ready,
        ReadyReply,
        tag="status",
        public=True,
    )
    return (route,)


def _health(context: RequestContext) -> Any:
    runtime = context.runtime
    return {
        "status": "healthy",
        "model_loaded": runtime.loaded(),
        "model": runtime.default_model().manifest.name,
    }


def _ready(context: RequestContext) -> Any:
    runtime = context.runtime
    model = runtime.default_model().manifest.name
    try:
        runtime.open_towers()
    except ModelError as error:
        logger.error("not ready: %s", error)
        body = orjson.dumps({"status": "not ready", "model": model})
        return Response(body, 503, mimetype="application/json")
    return {"status": "ready", "model": model}
