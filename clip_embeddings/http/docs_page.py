"""The OpenAPI document as a page for a person."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from flask import Response


def docs_page(document: Mapping[str, Any]) -> Response:
    """The document as an HTML page that loads no other resource."""
    groups = "".join(_group(tag["name"], document["paths"]) for tag in document["tags"])
    schemas = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    title = html.escape(document["info"]["title"])
    description = html.escape(document["info"]["description"])
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<h1>{title}</h1><p>{description} The same as JSON: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{groups}<h2>Schemas</h2>{schemas}</html>"
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


def _group(tag: str, paths: Mapping[str, Any]) -> str:
    """The operations of a tag; one that several protocols share stands below each of their tags."""
    sections = [
        _section(method.upper(), path, operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if tag in operation["tags"]
    ]
    return f"<h2>{html.escape(tag)}</h2>{''.join(sections)}"


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    shown = {key: operation[key] for key in ("parameters", "requestBody", "responses") if key in operation}
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation['summary'])}</summary><pre>{_pretty(shown)}</pre></details>"
    )


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2))
