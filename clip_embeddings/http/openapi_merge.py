"""Merges operations: several routes may share path and method, but OpenAPI has one operation for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_operations(known: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Add `other` to `known`.

    Their routes differ in content type or in the keys of a JSON body, and perhaps in protocol. Where both
    have a schema, either is valid (`anyOf`). `known` keeps its operation id.
    """
    for parameter in other.get("parameters", ()):
        parameters = known.setdefault("parameters", [])
        if parameter not in parameters:
            parameters.append(parameter)
    if "requestBody" in other:
        body = known.setdefault("requestBody", {"content": {}})
        _merge_content(body["content"], other["requestBody"]["content"], known, other)
    for status, response in other["responses"].items():
        present = known["responses"].setdefault(status, response)
        if present is not response:
            headers = {**present.get("headers", {}), **response.get("headers", {})}
            if headers:
                present["headers"] = headers
            if "content" in response:
                _merge_content(present.setdefault("content", {}), response["content"], known, other)
    known["tags"] += [tag for tag in other["tags"] if tag not in known["tags"]]
    if other["summary"] not in known["summary"].split("; "):
        known["summary"] += f"; {other['summary']}"


def _merge_content(
    known: dict[str, Any], more: Mapping[str, Any], operation: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    for media, content in more.items():
        present = known.setdefault(media, content)
        if present is content:
            continue
        present["schema"] = _either(present["schema"], content["schema"])
        if "example" in content:
            # A media type has one `example` or several `examples` with names.
            examples = present.setdefault("examples", {})
            if "example" in present:
                examples[operation["operationId"]] = {"value": present.pop("example")}
            examples[other["operationId"]] = {"value": content["example"]}


def _either(schema: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = list(schema["anyOf"]) if set(schema) == {"anyOf"} else [schema]
    choices += [choice for choice in other.get("anyOf", [other]) if choice not in choices]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}
