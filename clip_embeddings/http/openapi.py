"""The OpenAPI 3.1 document of a function, made from its routes and the structs they parse with."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from flask import Response

from clip_embeddings.http.routing import Route
from clip_embeddings.runtime import Runtime

VERSION = "0.1.0"
FAULTS = {
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
QUERY = (
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
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "CLIP embedding functions",
            "version": VERSION,
            "description": f"Text and images to vectors. Models: {', '.join(runtime.models)}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if runtime.settings.api_key is not None:
        described["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return described


def _schemas(routes: Iterable[Route]) -> tuple[Mapping[int, Any], dict[str, Any]]:
    """JSON Schema by the identity of the type it describes, and the components these refer to."""
    types: dict[int, Any] = {}
    for route in routes:
        body = route.body.schema if route.body else None
        for kind in (route.reply, body, *_error_types(route).values()):
            if kind is not None and not isinstance(kind, dict):
                types[id(kind)] = kind
    found, components = msgspec.json.schema_components(
        list(types.values()), ref_template="#/components/schemas/{name}"
    )
    return dict(zip(types, found, strict=True)), components


def _error_types(route: Route) -> dict[int, Any]:
    statuses = {*route.faults, 500} | (set() if route.open else {401})
    return {status: route.errors.schemas(status) for status in sorted(statuses)}


def _operation(route: Route, schemas: Mapping[int, Any], *, secured: bool) -> dict[str, Any]:
    def schema(kind: Any) -> Any:
        return kind if isinstance(kind, dict) else schemas[id(kind)]

    responses: dict[str, Any] = {"200": {"description": "OK"}}
    if route.reply is not None:
        responses["200"]["content"] = {route.media: {"schema": schema(route.reply)}}
    if route.page:
        responses["200"]["content"]["text/html"] = {"schema": {"type": "string"}}
    for status, kind in _error_types(route).items():
        if status == 401 and not secured:
            continue
        responses[str(status)] = {
            "description": FAULTS[status],
            "content": {"application/json": {"schema": schema(kind)}},
        }
    if route.path == "/ready":
        responses["503"] = {**responses["200"], "description": FAULTS[503]}
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": responses,
    }
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.query:
        parameters += QUERY
    if route.parameters:
        parameters += _query(route.parameters)
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        content = {media: {"schema": schema(route.body.schema)} for media in route.body.media}
        operation["requestBody"] = {"required": True, "content": content}
    if secured and not route.open:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _query(struct: Any) -> list[dict[str, Any]]:
    """The fields of a struct as parameters in a query string. One that may be null is then left out."""
    (described,) = msgspec.json.schema(struct)["$defs"].values()
    found = []
    for name, schema in described["properties"].items():
        kinds = [kind for kind in schema.pop("anyOf", ()) if kind.get("type") != "null"]
        plain = {**schema, **(kinds[0] if kinds else {})}
        about = plain.pop("description", name)
        if plain.get("default", 0) is None:
            del plain["default"]
        required = name in described.get("required", ())
        found.append(
            {"name": name, "in": "query", "required": required, "schema": plain, "description": about}
        )
    return found


def _merge(known: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Two routes of one path and method, told apart by content type, are one operation in OpenAPI."""
    known["requestBody"]["content"].update(other["requestBody"]["content"])
    known["parameters"] = known.get("parameters") or list(other.get("parameters", ()))
    one = known["responses"]["200"]["content"]["application/json"]
    more = other["responses"]["200"]["content"]["application/json"]["schema"]
    one["schema"] = {"anyOf": [*one["schema"].get("anyOf", [one["schema"]]), more]}
    known["summary"] += f"; {other['summary'][0].lower()}{other['summary'][1:]}"


def page(described: Mapping[str, Any]) -> Response:
    """The document as a page for a person; it loads nothing from anywhere."""
    rows = [
        _section(method.upper(), path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in sorted(described["components"]["schemas"].items())
    )
    title = html.escape(described["info"]["title"])
    about = html.escape(described["info"]["description"])
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<h1>{title}</h1><p>{about} The same as JSON: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{''.join(rows)}<h2>Schemas</h2>{schemas}</html>"
    )
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return response


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "details{border:1px solid #8884;border-radius:.4rem;margin:.4rem 0;padding:.4rem .8rem}"
    "summary{cursor:pointer}pre{overflow:auto;background:#8881;padding:.6rem}"
    "b{display:inline-block;min-width:3.5rem}:root{color-scheme:light dark}"
)


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    shown = {key: operation[key] for key in ("parameters", "requestBody", "responses") if key in operation}
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation['summary'])}</summary><pre>{_pretty(shown)}</pre></details>"
    )


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2))
