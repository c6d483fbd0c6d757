"""Host names, connections and errors of the fetch tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from clip_embeddings.config import FetchSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.fetch.client import fetch
from tests.support.image_servers import Server

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
METADATA = "169.254.169.254"
LOOPBACK = FetchSettings(timeout=5.0, private_hosts=frozenset({"127.0.0.1"}))
MAX_BYTES = 1000

# Every address that this process has connected to, in order.
CONNECTED: list[Any] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    # Records every connection of the process, whichever library makes it. An audit hook cannot be removed.
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        CONNECTED.append(arguments[1][:2] if isinstance(arguments[1], tuple) else arguments[1])


sys.addaudithook(_record)


@dataclass
class Names:
    """A fake resolver. A name has one list of addresses per lookup; the last list stays."""

    results: dict[str, list[list[str]]] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)
    delay: Callable[[], object] = lambda: None

    def add(self, name: str, *results: list[str]) -> None:
        """Resolve `name` to `results`, one list of addresses per lookup."""
        self.results[name] = list(results)


def replace_resolver(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Let the returned resolver, and no name server, resolve every name."""
    names = Names()
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        try:
            return real(host, *arguments, **{**options, "flags": socket.AI_NUMERICHOST})
        except socket.gaierror:
            pass
        names.lookups.append(host)
        names.delay()
        results = names.results.get(host)
        if not results:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = results.pop(0) if len(results) > 1 else results[0]
        return [entry for address in addresses for entry in real(address, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


def redirect_connections(monkeypatch: pytest.MonkeyPatch, server: Server) -> list[tuple[str, int]]:
    """Let every connection reach `server`; returns the list of addresses that were requested."""
    requested: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float, *arguments: Any, **options: Any) -> socket.socket:
        requested.append(address)
        return socket.create_connection(("127.0.0.1", server.server_port), timeout)

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    return requested


def fetch_error(url: str, settings: FetchSettings = LOOPBACK, max_bytes: int = MAX_BYTES) -> ApiError:
    """The error of a fetch that must fail; asserts that its sentence reveals no host and no address."""
    with pytest.raises(ApiError) as caught:
        fetch(url, settings, max_bytes)
    error = caught.value
    for secret in (
        METADATA,
        "127.0.0.1",
        PUBLIC,
        OTHER_PUBLIC,
        "10.0.0.1",
        "secret",
        ".example",
        "object at",
    ):
        assert secret not in error.message
    assert error.message.endswith(".")
    assert error.__cause__ is None
    return error
