"""The routes of the client protocols: read a body, parse it, embed, write the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from clip_embeddings.embedding import EmbedRequest, embed
from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext, Route
from clip_embeddings.protocols.base import Endpoint, Protocol
from clip_embeddings.protocols.registry import PROTOCOLS

GATEWAY = "gateway"


def protocol_routes(function: str) -> list[Route]:
    """The routes of every endpoint that the function of that name serves."""
    return [
        endpoint_route(protocol, endpoint)
        for protocol in load_protocols()
        for endpoint in protocol.endpoints
        if function == GATEWAY or function in endpoint.functions
    ]


def load_protocols() -> list[Protocol]:
    """Every protocol of the registry."""
    return [import_module(module).PROTOCOL for module in PROTOCOLS.values()]


def endpoint_route(protocol: Protocol, endpoint: Endpoint) -> Route:
    """The route of one endpoint."""

    def handler(context: RequestContext) -> Any:
        # Malformed or oversized requests are refused here, before any work. An invalid item is only noted.
        with context.timings.measure("parse"):
            body = context.read_body()
            embed_request = with_options(endpoint.parse(body, context.limits), context.request.args)
        result = embed(embed_request, context.runtime, context.timings, protocol.name)
        return endpoint.write(body, result)

    return Route(
        method="POST",
        path=endpoint.path,
        operation_id=endpoint.operation_id,
        summary=endpoint.summary,
        handler=handler,
        reply=endpoint.reply,
        body=endpoint.body,
        embedding_options=True,
        error_statuses=(400, 404, 408, 413, 415, 422, 429),
        errors=protocol.errors,
    )


def with_options(embed_request: EmbedRequest, query: Mapping[str, str]) -> EmbedRequest:
    """The request with `model` and `normalize` of the query string, which override the body's.

    Raises:
        ApiError: 400 if `normalize` is neither true nor false.
    """
    if "model" in query:
        embed_request = replace(embed_request, model=query["model"])
    if "normalize" in query:
        normalize = query["normalize"].lower()
        if normalize not in ("true", "false", "1", "0"):
            raise ApiError(400, "normalize_invalid", "`normalize` must be true or false.")
        embed_request = replace(embed_request, normalize=normalize in ("true", "1"))
    return embed_request
