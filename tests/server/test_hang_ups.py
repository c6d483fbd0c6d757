"""A request handler can ask whether its client is still there."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.serving import ROOT, Server, serving

WAIT = b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def waiting(tmp_path: Path, log: Path) -> Iterator[Server]:
    """A function that at /wait waits two seconds for its client to hang up, and tells in the file `ended`."""
    source = tmp_path / "wrapper.py"
    source.write_text(
        f"""
import sys, time, pathlib
sys.path.insert(0, {str(ROOT)!r})
import main
from clip_embeddings.server.body import is_connected

def __getattr__(name):
    function = getattr(main, name)
    def wrapped(request):
        if request.path != "/wait":
            return function(request)
        end = time.monotonic() + 2
        while (there := is_connected(request.environ)) and time.monotonic() < end:
            time.sleep(0.02)
        pathlib.Path({str(tmp_path / "ended")!r}).write_text("there" if there else "gone")
        return "done"
    return wrapped
"""
    )
    with serving("embed_text", log, source=str(source)) as server:
        yield server


def outcome(folder: Path) -> str:
    end = time.monotonic() + 10
    while not (folder / "ended").exists() or not (folder / "ended").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    return (folder / "ended").read_text()


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname
    return socket.create_connection((address.hostname, address.port or 0), timeout=10)


def test_a_client_that_hangs_up_is_noticed(waiting: Server, tmp_path: Path) -> None:
    with connect(waiting) as client:
        client.sendall(WAIT)
        time.sleep(0.3)
    assert outcome(tmp_path) == "gone"


def test_a_client_that_resets_the_connection_is_noticed(waiting: Server, tmp_path: Path) -> None:
    with connect(waiting) as client:
        client.sendall(WAIT)
        time.sleep(0.3)
        # Closing without waiting sends RST.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert outcome(tmp_path) == "gone"


@pytest.mark.parametrize("more", [b"", WAIT])
def test_a_client_that_waits_is_there_even_if_it_has_sent_more(
    waiting: Server, tmp_path: Path, more: bytes
) -> None:
    with connect(waiting) as client:
        client.sendall(WAIT)
        time.sleep(0.3)
        client.sendall(more)
        assert outcome(tmp_path) == "there"
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_the_work_for_a_client_that_hangs_up_ends(tmp_path: Path) -> None:
    texts = [f"{number} " + "a red heart on a table " * 12 for number in range(2048)]
    body = json.dumps({"input": texts, "model": "demo"}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    log = tmp_path / "hung-up.log"
    with serving("embed_text", log) as server:
        with connect(server) as client:
            client.sendall(head.encode() + body)
        end = time.monotonic() + 10
        while "status=499" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        assert server.post("/embed/text", data={"text": "a cat"}).status_code == 200
