"""Clients that open connections and then hardly send anything. As a program they share no lock with a test.

python -m tests.support.stalled HOST PORT KIND COUNT
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.serving import ROOT, Server

_HEAD = "POST /embed/text HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# By kind: what a client sends at first, and then every five seconds.
KINDS = {
    "silent": (b"", b""),
    "half a header": (_HEAD.encode(), b"X"),
    "dripping body": (f"{_HEAD}Content-Length: 1000\r\n\r\n".encode(), b" "),
    "dripping chunks": (f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n \r\n"),
}


@contextmanager
def stalling(server: Server, kind: str, count: int) -> Iterator[None]:
    """Keep `count` such connections open during the block: one that the server closes is opened again."""
    host, port = server.url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "tests.support.stalled", host, port, kind, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdin
        assert clients.stdout
        try:
            assert clients.stdout.readline() == b"connected\n"
            yield
        finally:
            clients.stdin.close()
            clients.wait(20)


async def _stall(host: str, port: int, kind: str, count: int) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2 * count, most)), most))
    connected = asyncio.Semaphore(0)
    clients = [asyncio.create_task(_client(host, port, *KINDS[kind], connected)) for _ in range(count)]
    for _ in clients:
        await connected.acquire()
    print("connected", flush=True)
    # The test closes this input when it ends.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


async def _client(host: str, port: int, start: bytes, more: bytes, connected: asyncio.Semaphore) -> None:
    while True:
        reader, writer = await asyncio.open_connection(host, port)
        connected.release()
        with suppress(ConnectionError):
            writer.write(start)
            while not reader.at_eof():
                # A reply, such as 408, is read with the end after it.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(), 5)
                writer.write(more)
        writer.close()


if __name__ == "__main__":
    asyncio.run(_stall(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
