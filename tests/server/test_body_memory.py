"""Bodies take their memory from a budget before they are read: they wait, or are refused."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.serving import Server, error_code, error_message, serving, worker
from tests.support.vectors import assert_texts

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A function with about 16 MiB for bodies and 30 MiB for what is made of them."""
    log = tmp_path_factory.mktemp("small") / "log"
    with serving("embed_text", log, MEMORY_LIMIT="230Mi", MODEL_THREADS="1") as server:
        server.get("/ready")
        yield server


def padded(size: int) -> bytes:
    """A request for one text, as a body of so many bytes."""
    return b'{"texts": ["a"]}'.ljust(size)


def send_head(server: Server, length: str) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname
    client = socket.create_connection((address.hostname, address.port or 0), timeout=30)
    client.sendall(
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()
    )
    return client


def peak(server: Server) -> int:
    """The most memory that the serving process has had, in MiB."""
    status = Path(f"/proc/{worker(server)}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def test_a_body_that_never_fits_is_refused_before_it_is_read(small: Server) -> None:
    with send_head(small, f"Content-Length: {30 * MiB}") as client:
        reply = client.recv(10_000)
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert re.search(rb"more than \d\d,\d\d\d,\d\d\d bytes", reply)
    chunked = small.post("/", data=iter([bytes(MiB)] * 30), headers={"Content-Type": "application/json"})
    assert (chunked.status_code, error_code(chunked)) == (413, "request_too_large")


def test_eight_large_bodies_at_once_wait_for_each_other(small: Server) -> None:
    before = peak(small)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: small.post("/", data=padded(12 * MiB), headers=JSON), range(8)))

    for reply in replies:
        assert reply.status_code == 200
        assert_texts(reply.json()["embeddings"], "a")
    # Eight of them would take 96 MiB before they are parsed.
    assert peak(small) < before + 60


JSON = {"Content-Type": "application/json"}


def test_a_body_that_waits_too_long_is_told_to_come_back_while_small_ones_are_served(small: Server) -> None:
    body = padded(12 * MiB)
    with send_head(small, f"Content-Length: {len(body)}") as slow, ThreadPoolExecutor(3) as pool:
        slow.sendall(body[: 6 * MiB])
        time.sleep(0.2)
        started = time.monotonic()
        waiting = pool.submit(lambda: small.post("/", data=body, headers=JSON))
        chunked = pool.submit(lambda: small.post("/", data=iter([body[:MiB]] * 12), headers=JSON))
        while not waiting.done():
            assert small.post("/", json={"texts": ["a"]}).status_code == 200
            if time.monotonic() < started + 8:
                # It arrives fast enough to go on.
                slow.sendall(b" " * 100_000)
            time.sleep(0.5)
        for reply in (waiting.result(), chunked.result()):
            assert (reply.status_code, error_code(reply)) == (429, "overloaded")
            assert int(reply.headers["Retry-After"]) > 0
        assert 9 < time.monotonic() - started < 20
    # Its client hung up in the middle: its memory is free again.
    assert small.post("/", data=body, headers=JSON).status_code == 200


def test_what_a_body_becomes_has_a_limit_too(small: Server) -> None:
    # Two bytes a character, because one is not of Latin-1, in three million short strings.
    wide = json.dumps({"texts": ["é" * 9 + "中"] * 400_000}, ensure_ascii=False).encode()
    assert len(wide) < 16 * MiB
    reply = small.post("/", data=wide, headers=JSON)
    assert (reply.status_code, error_code(reply)) == (413, "request_too_large")
    assert "bytes of memory" in error_message(reply)
    # Bodies of the same size that become less.
    assert small.post("/", data=padded(len(wide)), headers=JSON).status_code == 200


def test_a_client_that_hangs_up_gives_the_memory_back(small: Server) -> None:
    for _ in range(20):
        with send_head(small, f"Content-Length: {12 * MiB}") as client:
            client.sendall(bytes(MiB))
    assert small.post("/", data=padded(12 * MiB), headers=JSON).status_code == 200
