"""Every protocol of the registry: it is served, documented and answers its own examples."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from clip_embeddings.functions import FUNCTIONS
from clip_embeddings.http.endpoints import load_protocols
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, Endpoint, Protocol
from clip_embeddings.protocols.registry import PROTOCOLS
from tests.support.serving import Server

ENDPOINTS = [(protocol, endpoint) for protocol in load_protocols() for endpoint in protocol.endpoints]
IMAGE = base64.b64decode(EXAMPLE_IMAGE.partition(",")[2])

every_endpoint = pytest.mark.parametrize(
    ("protocol", "endpoint"), ENDPOINTS, ids=[endpoint.operation_id for _, endpoint in ENDPOINTS]
)


def _example(endpoint: Endpoint) -> dict[str, Any]:
    """The example as arguments of requests.post."""
    match endpoint.body.kind:
        case "json":
            return {"json": endpoint.example}
        case "form":
            return {"data": endpoint.example}
        case "file":
            return {"files": {endpoint.body.file_field: IMAGE}}
        case "bytes":
            return {"data": IMAGE, "headers": {"Content-Type": "image/png"}}


def _matches(value: Any, schema: Any) -> None:
    """Assert that a reply has the fields of the struct that documents it, and no others."""
    assert set(value) == set(schema.__struct_fields__)


def test_the_registry_names_each_protocol_as_it_names_itself() -> None:
    assert [protocol.name for protocol in load_protocols()] == list(PROTOCOLS)


@every_endpoint
def test_an_example_request_is_answered_as_documented(
    gateway: Server, protocol: Protocol, endpoint: Endpoint
) -> None:
    reply = gateway.post(endpoint.path, **_example(endpoint))

    assert reply.status_code == 200, reply.text
    _matches(reply.json(), endpoint.reply)


@every_endpoint
def test_an_endpoint_is_in_the_openapi_document(
    gateway: Server, protocol: Protocol, endpoint: Endpoint
) -> None:
    operation = gateway.get("/openapi.json").json()["paths"][endpoint.path]["post"]

    assert set(endpoint.body.media) <= set(operation["requestBody"]["content"])


@every_endpoint
def test_an_endpoint_is_served_by_functions_that_exist(protocol: Protocol, endpoint: Endpoint) -> None:
    assert endpoint.functions
    assert set(endpoint.functions) <= {function.name for function in FUNCTIONS if function.is_http}
