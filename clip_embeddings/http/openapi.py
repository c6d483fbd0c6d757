"""The OpenAPI 3.1 document of a function, made from its routes and the structs they parse with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from clip_embeddings import __version__
from clip_embeddings.http.routing import Route
from clip_embeddings.runtime import Runtime

ERROR_DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "The API key is missing or wrong.",
    404: "No such path, model, task or job.",
    405: "The path does not take this method.",
    408: "The body stopped coming.",
    413: "The request, or its only item, is larger than allowed.",
    415: "The content type is not one of those named.",
    422: "The only item cannot be decoded or fetched, or the body does not fit.",
    429: "Too many requests wait already; `Retry-After` says when to come again.",
    500: "Something went wrong in the function.",
    503: "Not ready, or the bucket of jobs does not answer.",
}
EMBEDDING_OPTIONS = (
    {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "The model that answers."},
    {
        "name": "normalize",
        "in": "query",
        "schema": {"type": "boolean", "default": True},
        "description": "Whether vectors have length 1.",
    },
)


def document(routes: Sequence[Route], runtime: Runtime) -> dict[str, Any]:
    """The OpenAPI document of `routes`."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, schemas, secured=runtime.settings.api_key is not None)
        known = paths.setdefault(route.path, {}).setdefault(route.method.lower(), operation)
        if known is not operation:
            _merge(known, operation)
    openapi: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "CLIP embedding functions",
            "version": __version__,
            "description": f"Text and images to vectors. Models: {', '.join(runtime.models)}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if runtime.settings.api_key is not None:
        openapi["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return openapi


def _schemas(routes: Iterable[Route]) -> tuple[Mapping[int, Any], dict[str, Any]]:
    """JSON Schema by the identity of the type it describes, and the components these refer to."""
    types: dict[int, Any] = {}
    for route in routes:
        body = route.body.schema if route.body else None
        for kind in (route.reply, body, *_error_types(route).values()):
            if kind is not None and not isinstance(kind, dict):
                types[id(kind)] = kind
    schemas, components = msgspec.json.schema_components(
        list(types.values()), ref_template="#/components/schemas/{name}"
    )
    return dict(zip(types, schemas, strict=True)), components


def _error_types(route: Route) -> dict[int, Any]:
    statuses = {*route.error_statuses, 500} | (set() if route.public else {401})
    return {status: route.errors.schema(status) for status in sorted(statuses)}


def _operation(route: Route, schemas: Mapping[int, Any], *, secured: bool) -> dict[str, Any]:
    def schema(kind: Any) -> Any:
        return kind if isinstance(kind, dict) else schemas[id(kind)]

    responses: dict[str, Any] = {"200": {"description": "OK"}}
    if route.reply is not None:
        responses["200"]["content"] = {route.reply_media: {"schema": schema(route.reply)}}
    if route.page:
        responses["200"]["content"]["text/html"] = {"schema": {"type": "string"}}
    for status, kind in _error_types(route).items():
        if status == 401 and not secured:
            continue
        responses[str(status)] = {
            "description": ERROR_DESCRIPTIONS[status],
            "content": {"application/json": {"schema": schema(kind)}},
        }
    if route.path == "/ready":
        responses["503"] = {**responses["200"], "description": ERROR_DESCRIPTIONS[503]}
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": responses,
    }
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.embedding_options:
        parameters += EMBEDDING_OPTIONS
    if route.query:
        parameters += _query_parameters(route.query)
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        content = {media: {"schema": schema(route.body.schema)} for media in route.body.media}
        operation["requestBody"] = {"required": True, "content": content}
    if secured and not route.public:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _query_parameters(struct: Any) -> list[dict[str, Any]]:
    """The fields of a struct as query parameters. A nullable field becomes an optional parameter."""
    (definition,) = msgspec.json.schema(struct)["$defs"].values()
    parameters = []
    for name, schema in definition["properties"].items():
        types = [type_ for type_ in schema.pop("anyOf", ()) if type_.get("type") != "null"]
        parameter = {**schema, **(types[0] if types else {})}
        description = parameter.pop("description", name)
        if parameter.get("default", 0) is None:
            del parameter["default"]
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in definition.get("required", ()),
                "schema": parameter,
                "description": description,
            }
        )
    return parameters


def _merge(known: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Add `other` to `known`: routes that differ only in content type are one operation in OpenAPI."""
    known["requestBody"]["content"].update(other["requestBody"]["content"])
    known["parameters"] = known.get("parameters") or list(other.get("parameters", ()))
    reply = known["responses"]["200"]["content"]["application/json"]
    schema = other["responses"]["200"]["content"]["application/json"]["schema"]
    reply["schema"] = {"anyOf": [*reply["schema"].get("anyOf", [reply["schema"]]), schema]}
    known["summary"] += f"; {other['summary'][0].lower()}{other['summary'][1:]}"
