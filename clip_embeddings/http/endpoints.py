"""The routes of the client protocols: read a body, parse it, embed, write the reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from msgspec import structs

from clip_embeddings.config import Settings
from clip_embeddings.embedding import EmbedRequest, embed
from clip_embeddings.errors import ApiError
from clip_embeddings.http.provenance import provenance_headers
from clip_embeddings.http.routing import Reply, RequestContext, Route
from clip_embeddings.protocols.base import Endpoint, Lookup, Protocol, RequestInfo
from clip_embeddings.protocols.registry import PROTOCOLS

GATEWAY = "gateway"


def load_protocols(names: Iterable[str] = tuple(PROTOCOLS)) -> list[Protocol]:
    """The protocols of these names, imported."""
    return [import_module(PROTOCOLS[name]).PROTOCOL for name in names]


def protocol_routes(
    function: str, protocols: Iterable[Protocol], root: str | None, settings: Settings
) -> list[Route]:
    """The routes of every endpoint of `protocols` that the function of that name serves.

    POST at `/` means POST at `root`. Endpoints that stand at the root themselves are there as well. An
    endpoint whose path a setting may name is there too if the setting does.
    """
    routes: list[Route] = []
    for protocol in protocols:
        for lookup in protocol.lookups:
            if function == GATEWAY or function in lookup.functions:
                routes.append(lookup_route(protocol, lookup))
        for endpoint in protocol.endpoints:
            if function == GATEWAY or function in endpoint.functions:
                route = endpoint_route(protocol, endpoint)
                routes.append(route)
                if root and (endpoint.at_root or endpoint.path == root):
                    routes.append(root_route(route))
                path = endpoint.setting_path(settings) if endpoint.setting_path else None
                if path and path not in [known.path for known in routes if known.keys == route.keys]:
                    # First, so that its key decides before a route at the same path that needs no key.
                    routes.insert(
                        0, structs.replace(route, path=path, operation_id=f"{route.operation_id}_setting")
                    )
    return routes


def root_route(route: Route) -> Route:
    """The same operation at `/`."""
    return structs.replace(route, path="/", operation_id=f"{route.operation_id}_root")


def endpoint_route(protocol: Protocol, endpoint: Endpoint) -> Route:
    """The route of one endpoint."""

    errors = endpoint.errors or protocol.errors

    def handler(context: RequestContext) -> Any:
        try:
            return reply(context)
        except ApiError as error:
            status = errors.statuses.get(error.code, error.status)
            raise error.with_status(status) from None

    def reply(context: RequestContext) -> Reply:
        def dimensions(model: str | None) -> int:
            # The query string's model overrides the body's, see `with_options`.
            name = context.request.args.get("model", model)
            return context.runtime.choose(name, protocol.name).manifest.dimensions

        info = RequestInfo(
            context.limits, context.path_params, context.timings, dimensions, context.runtime.towers
        )
        # Malformed or oversized requests are refused here, before any work. An invalid item becomes an
        # ApiError in the request.
        with context.timings.measure("parse"):
            body = context.read_body()
            embed_request = with_options(endpoint.parse(body, info), context.request.args)
        compute = endpoint.compute or embed
        result = compute(
            embed_request, context.runtime, context.timings, protocol.name, check=context.check_connected
        )
        return Reply(endpoint.write(body, result, info), provenance_headers(result))

    return Route(
        method="POST",
        path=endpoint.path,
        operation_id=endpoint.operation_id,
        summary=endpoint.summary,
        handler=handler,
        reply=endpoint.reply,
        body=endpoint.body,
        keys=endpoint.keys,
        # A reply without vectors has none to normalize.
        embedding_options=("model", "normalize") if endpoint.compute is None else ("model",),
        provenance=True,
        error_statuses=(400, 404, 408, 413, 415, 422, 429, *endpoint.further_statuses),
        errors=errors,
        tag=protocol.tag,
        example=endpoint.example,
    )


def lookup_route(protocol: Protocol, lookup: Lookup) -> Route:
    """The route of one lookup."""

    def handler(context: RequestContext) -> Any:
        body = lookup.handler(context.runtime, context.path_params)
        return Reply(body, status=lookup.status, media=lookup.reply_media)

    return Route(
        method="GET",
        path=lookup.path,
        operation_id=lookup.operation_id,
        summary=lookup.summary,
        handler=handler,
        reply=lookup.reply,
        reply_media=lookup.reply_media,
        status=lookup.status,
        error_statuses=lookup.error_statuses,
        errors=protocol.errors,
        public=lookup.public,
        tag=protocol.tag,
    )


def with_options(embed_request: EmbedRequest, query: Mapping[str, str]) -> EmbedRequest:
    """The request with `model` and `normalize` of the query string, which override the body's.

    Raises:
        ApiError: 400 if `normalize` is neither true nor false.
    """
    if "model" in query:
        embed_request = structs.replace(embed_request, model=query["model"])
    if "normalize" in query:
        normalize = query["normalize"].lower()
        if normalize not in ("true", "false", "1", "0"):
            raise ApiError(400, "normalize_invalid", "`normalize` must be true or false.")
        embed_request = structs.replace(embed_request, normalize=normalize in ("true", "1"))
    return embed_request
