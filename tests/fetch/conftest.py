"""Fixtures of the fetch tests: a loopback server, a resolver, and a record of every connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fetching import CONNECTED, Names, redirect_connections, replace_resolver
from tests.support.image_servers import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def connected(server: Server) -> list[Any]:
    """The addresses that the process has connected to during the test."""
    CONNECTED.clear()
    server.requests.clear()
    return CONNECTED


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A resolver with only the names that the test adds to it."""
    return replace_resolver(monkeypatch)


@pytest.fixture
def requested_addresses(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[tuple[str, int]]:
    """Redirects every connection to the loopback server; holds the addresses that were requested."""
    return redirect_connections(monkeypatch, server)
