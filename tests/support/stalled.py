"""Clients that open connections and then hardly send anything."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.support.serving import Server

_HEAD = "POST /embed/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# By kind: what a client sends at first, and then every five seconds.
KINDS = {
    "silent": (b"", b""),
    "half a header": (_HEAD.encode(), b"X"),
    "dripping body": (f"{_HEAD}Content-Length: 1000\r\n\r\n".encode(), b" "),
    "dripping chunks": (f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n \r\n"),
}


@dataclass
class Stalled:
    """What has become of the clients' connections."""

    # Connections that are open now.
    connected: int = 0
    # Connections that the server has closed.
    closed: int = 0


@contextmanager
def stalling(server: Server, kind: str, count: int) -> Iterator[Stalled]:
    """Keep `count` such connections open during the block: one that the server closes is opened again."""
    _allow_descriptors(2 * count + 200)
    stalled, ended = Stalled(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_stall(server, kind, count, stalled, ended)))
    thread.start()
    try:
        for _ in range(600):
            if stalled.connected >= count:
                break
            ended.wait(0.05)
        assert stalled.connected >= count
        yield stalled
    finally:
        ended.set()
        thread.join()


async def _stall(server: Server, kind: str, count: int, stalled: Stalled, ended: threading.Event) -> None:
    clients = [asyncio.create_task(_client(server, kind, stalled)) for _ in range(count)]
    while not ended.is_set():
        await asyncio.sleep(0.05)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


async def _client(server: Server, kind: str, stalled: Stalled) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    start, more = KINDS[kind]
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        stalled.connected += 1
        try:
            writer.write(start)
            while not reader.at_eof():
                # A reply, such as 408, is read with the end after it.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(), 5)
                writer.write(more)
        except ConnectionError:
            pass
        finally:
            stalled.connected -= 1
            stalled.closed += 1
            writer.close()


def _allow_descriptors(count: int) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, most), most))
