"""HTTP as clients speak it: kept connections, pipelines, chunks, 100 Continue; and what is not believed."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.raw_http import exchange
from tests.support.serving import Server, serving
from tests.support.vectors import assert_texts

TEXT = b'{"texts": ["a"]}'
POST = b"POST /embed/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        yield client


def with_length(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def statuses(client: socket.socket, count: int) -> list[bytes]:
    """The status lines of so many replies."""
    data = b""
    while data.count(b"HTTP/1.1 ") < count and (part := client.recv(65536)):
        data += part
    return re.findall(rb"HTTP/1\.1 \d\d\d [^\r]*", data)


def test_a_connection_serves_many_requests(gateway: Server) -> None:
    address = urlsplit(gateway.url)
    assert address.hostname
    connection = HTTPConnection(address.hostname, address.port, timeout=20)
    ports = set()
    for body in (TEXT, iter([TEXT[:5], TEXT[5:]]), TEXT.ljust(300_000)):
        connection.request("POST", "/embed/text", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert_texts(json.loads(reply.read())["embeddings"], "a")
        ports.add(connection.sock.getsockname())
    connection.close()
    assert len(ports) == 1


def test_requests_may_follow_each_other_without_waiting(gateway: Server) -> None:
    pipeline = [
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        with_length(TEXT),
        in_chunks(TEXT, 3),
        in_chunks(TEXT.ljust(100_000), 1000),
        with_length(TEXT.ljust(100_000)),
        with_length(b"{}"),
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    with connected(gateway) as client:
        client.sendall(b"".join(pipeline))
        lines = statuses(client, len(pipeline))

    assert [line.split()[1] for line in lines] == [b"200"] * 5 + [b"400", b"200"]


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_requests_may_come_in_pieces(gateway: Server, size: int) -> None:
    for request in (with_length(TEXT), in_chunks(TEXT, 5)):
        with connected(gateway) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(request), size):
                client.sendall(request[start : start + size])
                time.sleep(0.001)
            assert statuses(client, 1) == [b"HTTP/1.1 200 OK"]


def test_a_client_is_told_to_continue_when_its_body_is_wanted(gateway: Server) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connected(gateway) as client:
        client.sendall(head % len(TEXT))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(TEXT)
        assert statuses(client, 1) == [b"HTTP/1.1 200 OK"]
    with connected(gateway) as client:
        client.sendall(head % 10**9)
        assert statuses(client, 1) == [b"HTTP/1.1 413 REQUEST ENTITY TOO LARGE"]


def test_a_large_body_without_the_key_is_not_read(log: Path) -> None:
    key = "a-long-random-key-0123456789"
    with serving("embed_text", log, API_KEY=key) as server:
        for framing in (
            b"Content-Length: 30000000\r\n\r\n{",
            in_chunks(bytes(300_000), 10_000).partition(POST)[2],
        ):
            with connected(server) as client:
                client.sendall(POST + framing)
                (line,) = statuses(client, 1)
                assert line.startswith(b"HTTP/1.1 401 ")
        reply = server.post("/", json={"texts": ["x" * 100_000]}, headers={"api-key": key})
        assert reply.status_code == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
        b"Content-Length: +0\r\n\r\n",
        b"Content-Length: 0x0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\n\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0;\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\n{} ",
    ],
)
def test_no_second_request_is_read_where_the_end_of_the_first_is_in_doubt(
    gateway: Server, framing: bytes
) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(gateway) as client:
        client.sendall(POST + framing + smuggled)
        client.settimeout(5)
        replies = b""
        while part := client.recv(65536):
            replies += part

    # A body that gunicorn understands may be followed by another request; its framing is not in doubt then.
    if framing.startswith((b"Transfer_Encoding", b"Transfer-Encoding: chunked\r\n\r\n0;")):
        assert replies.count(b"HTTP/1.1 ") <= 2
    else:
        assert replies.count(b"HTTP/1.1 ") == 1
    assert replies.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501 "))


def test_headers_of_a_proxy_do_not_change_the_path(gateway: Server) -> None:
    for header in ("SCRIPT_NAME: /embed", "SCRIPT_NAME: /nonsense", "PATH_INFO: /embed/text"):
        reply = exchange(gateway.url, f"GET /health HTTP/1.1\nHost: HOST\n{header}\nConnection: close")
        assert (reply.status, reply.json()["status"]) == (200, "healthy")


def test_a_head_that_is_too_large_is_refused(gateway: Server) -> None:
    with connected(gateway) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000)
        assert statuses(client, 1) == [b"HTTP/1.1 431 Request Header Fields Too Large"]


def test_a_client_that_still_sends_reads_why_it_is_refused(gateway: Server) -> None:
    with connected(gateway) as client:
        client.sendall(POST + b"Content-Length: 100000000\r\n\r\n" + bytes(10_000_000))
        (line,) = statuses(client, 1)
    assert line.startswith(b"HTTP/1.1 413 ")
