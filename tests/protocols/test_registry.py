"""Every protocol of the registry: it is served, documented and answers its own examples."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from clip_embeddings.functions import FUNCTIONS
from clip_embeddings.http.endpoints import load_protocols
from clip_embeddings.protocols.base import Endpoint, Protocol
from clip_embeddings.protocols.registry import PROTOCOLS
from tests.support.examples import path_of, request_of
from tests.support.serving import Server, error_code, provenance
from tests.support.vectors import model

ENDPOINTS = [(protocol, endpoint) for protocol in load_protocols() for endpoint in protocol.endpoints]

every_endpoint = pytest.mark.parametrize(
    ("protocol", "endpoint"), ENDPOINTS, ids=[endpoint.operation_id for _, endpoint in ENDPOINTS]
)


def _matches(value: Any, schema: Any) -> None:
    """Assert that a reply is as documented: it has the fields of a struct, and no others."""
    if isinstance(schema, dict):
        return
    msgspec.convert(value, schema)
    if isinstance(schema, type) and issubclass(schema, msgspec.Struct):
        fields = msgspec.structs.fields(schema)
        assert {field.encode_name for field in fields if field.required} <= set(value)
        assert set(value) <= {field.encode_name for field in fields}


def test_the_registry_names_each_protocol_as_it_names_itself() -> None:
    assert [protocol.name for protocol in load_protocols()] == list(PROTOCOLS)


@every_endpoint
def test_an_example_request_is_answered_as_documented(
    gateway: Server, protocol: Protocol, endpoint: Endpoint
) -> None:
    reply = gateway.post(path_of(endpoint.path), **request_of(endpoint))

    assert reply.status_code == 200, reply.text
    _matches(reply.json(), endpoint.reply)
    made_by = provenance(reply)
    assert made_by["model"] == model().manifest.name
    assert made_by["dimensions"] == str(model().manifest.dimensions)
    assert made_by["space"] == model().manifest.space
    assert made_by["fingerprint"]


@every_endpoint
def test_an_endpoint_is_in_the_openapi_document(
    gateway: Server, protocol: Protocol, endpoint: Endpoint
) -> None:
    path = re.sub(r":\w+\}", "}", endpoint.path)
    operation = gateway.get("/openapi.json").json()["paths"][path]["post"]

    # A body without Content-Type is accepted by some protocols, but cannot be documented.
    assert set(endpoint.body.media) - {""} <= set(operation["requestBody"]["content"])
    assert protocol.tag in operation["tags"]


@every_endpoint
def test_an_error_has_the_protocols_form_and_a_code(
    gateway: Server, protocol: Protocol, endpoint: Endpoint
) -> None:
    reply = gateway.post(path_of(endpoint.path) + "?normalize=perhaps", **request_of(endpoint))

    assert (reply.status_code, error_code(reply)) == (400, "normalize_invalid")
    _matches(reply.json(), (endpoint.errors or protocol.errors).schema(400))


@every_endpoint
def test_an_endpoint_is_served_by_functions_that_exist(protocol: Protocol, endpoint: Endpoint) -> None:
    assert endpoint.functions
    assert set(endpoint.functions) <= {function.name for function in FUNCTIONS if function.is_http}
