"""As many connections as the system allows, and no busy waiting where it allows no more."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from clip_embeddings.server.descriptors import OTHERS, allow_descriptors
from tests.support.serving import Server, serving, worker


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname
    return socket.create_connection((address.hostname, address.port or 0), timeout=30)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_without_file_descriptors_connections_wait_and_nothing_spins(log: Path) -> None:
    with serving("embed_text", log) as server, ExitStack() as clients:
        pid = worker(server)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 5, used + 5))
        waiting = [clients.enter_context(connect(server)) for _ in range(20)]
        before = cpu_seconds(pid)
        time.sleep(2)
        assert cpu_seconds(pid) - before < 0.5

        for client in waiting[:15]:
            client.close()
        waiting[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert waiting[-1].recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert "No more connections can be accepted" in log.read_text()


def test_the_limit_of_descriptors_is_raised_for_the_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
        assert allow_descriptors(500) == 500
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + OTHERS
        # There is no room for more than the hard limit.
        assert allow_descriptors(10**9) == before[1] - OTHERS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_server_serves_more_than_a_thousand_connections(log: Path) -> None:
    with serving("embed_text", log) as server, ExitStack() as clients:
        connections = [clients.enter_context(connect(server)) for _ in range(1100)]
        for client in connections:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for client in connections:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
