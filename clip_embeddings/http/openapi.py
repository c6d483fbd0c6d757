"""The OpenAPI 3.1 document of a function, made from its routes and the structs they parse with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from clip_embeddings import __version__
from clip_embeddings.http import provenance
from clip_embeddings.http.openapi_merge import merge_operations
from clip_embeddings.http.reply_examples import NOTE, reply_example
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
    503: "Not ready, or a bucket does not answer.",
}
EMBEDDING_OPTIONS = (
    {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "The model that answers."},
    {
        "name": "normalize",
        "in": "query",
        # No default: it depends on RAW_PROTOCOLS.
        "schema": {"type": "boolean"},
        "description": "Whether vectors have length 1; by default they do, unless a setting says otherwise.",
    },
)
HEADER_DESCRIPTIONS = {
    "Embedding-Model": "The model that made the vectors.",
    "Embedding-Dimensions": "Numbers of a vector.",
    "Embedding-Space": "Vectors are comparable only inside one space.",
    "Embedding-Fingerprint": "Changes with anything that may change a vector.",
    "Embedding-Truncated": "Indices of the texts that were cut at the model's context length.",
    provenance.ERROR_CODE: "A stable code for the error.",
}
SCHEMA_REFERENCE = "#/components/schemas/"
# Modules whose structs keep their names, where another module has one of the same name. Clients are generated
# from the names in the second one.
UNPREFIXED = ("clip_embeddings.protocols.base", "clip_embeddings.jobs.schema")


def document(routes: Sequence[Route], runtime: Runtime) -> dict[str, Any]:
    """The OpenAPI document of `routes`, those of the native protocol first."""
    routes = sorted(routes, key=lambda route: route.tag != "embeddings")
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, schemas, secured=runtime.settings.api_key is not None)
        known = paths.setdefault(route.documented_path, {}).setdefault(route.method.lower(), operation)
        if known is not operation:
            merge_operations(known, operation)
    openapi: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "CLIP embedding functions",
            "version": __version__,
            "description": f"Text and images to vectors. Models: {', '.join(runtime.models)}. {NOTE}",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {"schemas": components, "headers": _headers()},
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
        list(types.values()), ref_template=f"{SCHEMA_REFERENCE}{{name}}"
    )
    schemas, components = _rename(schemas, components)
    _describe_items((schemas, components))
    return dict(zip(types, schemas, strict=True)), components


def _describe_items(schema: Any) -> None:
    """Give every array `items`, without which generators of clients refuse an operation."""
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            schema.setdefault("items", {})
        schema = schema.values()
    if not isinstance(schema, str | int | float | None):
        for part in schema:
            _describe_items(part)


def _rename(schemas: Any, components: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The same, where structs of one name are called MODULE.NAME, with names that are fit for generated code.

    `clip_embeddings.protocols.encoder.VectorReply` becomes `EncoderVectorReply`, its title too.
    """
    document = orjson.dumps([schemas, components])
    for name in [name for name in components if "." in name]:
        module, _, struct = name.rpartition(".")
        prefix = "" if module in UNPREFIXED else module.rpartition(".")[2].title().replace("_", "")
        old, new = (f'"{SCHEMA_REFERENCE}{text}"'.encode() for text in (name, prefix + struct))
        document = document.replace(old, new).replace(f'"{name}":'.encode(), f'"{prefix}{struct}":'.encode())
    schemas, components = orjson.loads(document)
    return schemas, {name: {**schema, "title": name} for name, schema in components.items()}


def _error_types(route: Route) -> dict[int, Any]:
    statuses = {*route.error_statuses, 500} | (set() if route.public else {401})
    return {status: route.errors.schema(status) for status in sorted(statuses)}


def _operation(route: Route, schemas: Mapping[int, Any], *, secured: bool) -> dict[str, Any]:
    def schema(kind: Any) -> Any:
        return kind if isinstance(kind, dict) else schemas[id(kind)]

    success: dict[str, Any] = {"description": "OK"}
    responses = {str(route.status): success}
    if route.provenance:
        success["headers"] = _header_references(provenance.HEADERS)
    if route.reply is not None and route.status != 204:
        content = success["content"] = {route.reply_media: {"schema": schema(route.reply)}}
        if (example := reply_example(route.operation_id)) is not None:
            content[route.reply_media]["example"] = example
    if route.page:
        success["content"]["text/html"] = {"schema": {"type": "string"}}
    for status, kind in _error_types(route).items():
        if status == 401 and not secured:
            continue
        responses[str(status)] = {
            "description": ERROR_DESCRIPTIONS.get(status, "The request cannot be answered."),
            "headers": _header_references([provenance.ERROR_CODE]),
            "content": {"application/json": {"schema": schema(kind)}},
        }
    if route.path == "/ready":
        responses["503"] = {**success, "description": ERROR_DESCRIPTIONS[503]}
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": responses,
    }
    parameters: list[Any] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.documented_path)
    ]
    parameters += (option for option in EMBEDDING_OPTIONS if option["name"] in route.embedding_options)
    if route.query:
        parameters += _query_parameters(route.query)
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        media_type = {"schema": schema(route.body.schema)}
        # A multipart form is not JSON.
        if isinstance(route.example, dict | list | str):
            media_type["example"] = route.example
        content = {media: dict(media_type) for media in route.body.media if media}
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


def _headers() -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in HEADER_DESCRIPTIONS.items()
    }


def _header_references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
