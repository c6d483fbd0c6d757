"""A local server, and everything that a fetch could reach instead of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fetching import CONNECTED, Names, detoured, resolver
from tests.support.image_servers import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def connected(server: Server) -> list[Any]:
    """The addresses that the test has connected to."""
    CONNECTED.clear()
    server.requests.clear()
    return CONNECTED


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What names are answered."""
    return resolver(monkeypatch)


@pytest.fixture
def detour(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[tuple[str, int]]:
    """Connections to public addresses reach the local server; holds the addresses asked for."""
    return detoured(monkeypatch, server)
