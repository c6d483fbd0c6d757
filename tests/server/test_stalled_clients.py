"""Clients that send nothing, half a header or a byte now and then take no thread, and are given up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.serving import Server, serving
from tests.support.stalled import KINDS, stalling
from tests.support.vectors import assert_texts


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("embed_text", tmp_path_factory.mktemp("stalled") / "log", MAX_WAITING="4") as server:
        server.get("/ready")
        yield server


def health_times(server: Server, seconds: float) -> list[float]:
    """How long requests to /health took, in seconds, from the shortest to the longest."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        with connect(server) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        times.append(time.monotonic() - before)
        time.sleep(0.02)
    return sorted(times)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_stalled_clients_delay_nobody(target: Server, kind: str) -> None:
    with stalling(target, kind, 1000):
        times = health_times(target, 1)
        reply = target.post("/", json={"texts": ["a"]})

    print(f"{kind}: /health took {1000 * times[-1]:.0f} ms at most")
    assert times[-1] < 2
    assert_texts(reply.json()["embeddings"], "a")


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_stalled_clients_delay_nobody_for_two_minutes(
    log: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving("embed_text", log) as server:
        server.get("/ready")
        alone = health_times(server, 20)
        with stalling(server, kind, 1000):
            times = health_times(server, 120)

    with capsys.disabled():
        for name, values in (("alone", alone), (f"beside 1,000 clients, {kind}", times)):
            p50, p99 = (1000 * values[int(len(values) * share)] for share in (0.5, 0.99))
            print(f"/health {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {1000 * values[-1]:.0f} ms")
    # On a machine that does other work too, the longest of thousands of times tells of that work.
    assert times[int(len(times) * 0.99)] < 0.1


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@pytest.mark.full
def test_a_head_has_ten_seconds_in_all(target: Server) -> None:
    before = time.monotonic()
    with connect(target) as silent, connect(target) as dripping:
        dripping.sendall(KINDS["half a header"][0])
        dripping.settimeout(1)
        reply = b""
        while not reply and time.monotonic() < before + 20:
            try:
                reply = dripping.recv(10_000)
            except TimeoutError:
                dripping.sendall(b"X")
        taken = time.monotonic() - before
        assert silent.recv(10_000) == b""

    assert 9 < taken < 15
    assert reply.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("framing", ["Content-Length: 50000", "Transfer-Encoding: chunked"])
def test_a_body_that_drips_is_given_up(log: Path, framing: str) -> None:
    piece = b"a" if "Length" in framing else b"1\r\na\r\n"
    with serving("embed_text", log, BODY_TIMEOUT="1") as server, connect(server) as client:
        before = time.monotonic()
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
        client.sendall(head.encode())
        client.settimeout(0.1)
        # Each byte comes in time, all of them do not.
        while time.monotonic() < before + 10:
            try:
                reply = client.recv(10_000)
                break
            except TimeoutError:
                client.sendall(piece)
        taken = time.monotonic() - before

    assert 0.9 < taken < 5
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in reply


def test_a_body_that_is_slow_but_moves_is_read(log: Path) -> None:
    body = b'{"texts": ["a"]}'.ljust(100_000)
    with serving("embed_text", log, BODY_TIMEOUT="1") as server, connect(server) as client:
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        client.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        # 40,000 bytes a second: more than a second beyond BODY_TIMEOUT.
        for start in range(0, len(body), 20_000):
            client.sendall(body[start : start + 20_000])
            time.sleep(0.5)
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_clients_that_do_not_read_their_replies_take_no_thread(log: Path) -> None:
    body = b'{"texts": [%b]}' % b",".join([b'"a"'] * 256)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with serving("embed_text", log, THREADS="2") as server:
        server.get("/ready")
        clients = [connect(server) for _ in range(6)]
        for client in clients:
            # More replies than the system's buffers take: each has 350 KB.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall((head % len(body) + body) * 20)
        time.sleep(1)

        assert health_times(server, 0.5)[-1] < 2
        for client in clients:
            client.close()


def test_health_is_answered_while_every_thread_is_at_work(log: Path) -> None:
    slow = {"texts": [f"{'word ' * 70}{number}" for number in range(256)]}
    with serving("embed_text", log, THREADS="2", MAX_WAITING="100") as server, ThreadPoolExecutor(12) as pool:
        server.get("/ready")
        requests = [pool.submit(lambda: server.post("/", json=slow).status_code) for _ in range(12)]
        time.sleep(0.1)
        times = health_times(server, 0.5)
        waiting = sum(not request.done() for request in requests)
        assert {request.result() for request in requests} == {200}

    assert waiting
    assert times[-1] < 2


def test_stalled_clients_do_not_use_up_the_memory_of_others(target: Server) -> None:
    """Bodies of 16 MiB in all, and heads of as much, which have begun and do not go on."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    body = b'{"texts": ["a"]}'
    with ExitStack() as clients:
        for number in range(600):
            client = clients.enter_context(connect(target))
            declared, large = b"Content-Length: 60000\r\n\r\n" + bytes(5000), b"X: y\r\n" * 1000
            client.sendall(head + (declared if number % 2 else large))
        time.sleep(0.5)
        for size in (len(body), 3000, 30_000):
            with connect(target) as client:
                client.sendall(head + b"Content-Length: %d\r\n\r\n" % size + body.ljust(size))
                client.settimeout(5)
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
