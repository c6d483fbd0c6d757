"""Answers one buffered request through WSGI. Runs in a request's thread and never waits for the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

from clip_embeddings.server.body import Arrival, BufferedBody
from clip_embeddings.server.connection import Connection

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
READ_BYTES = 1024 * 1024


class MemoryUnreader(Unreader):  # type: ignore[misc]
    """Gives gunicorn's parser bytes from memory, and the end after them."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__()
        self._data = data
        self._position = 0

    def replace(self, data: bytes | bytearray) -> None:
        """Read `data` from now on."""
        self._data, self._position = data, 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next piece.

        Small ones, because gunicorn copies what is left of a piece for each chunk in it.
        """
        end = self._position + max(size_hint or 0, 8192)
        with memoryview(self._data) as view:
            piece = bytes(view[self._position : end])
        self._position += len(piece)
        return piece

    def is_exhausted(self) -> bool:
        """Whether the parser has used every byte."""
        return self._position == len(self._data) and not self.buf.getvalue()


class Reply:
    """What gunicorn writes the reply to, in place of a socket: keeps it, so that it is sent in one piece."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Keep `data`."""
        self.parts.append(data)

    def gettimeout(self) -> float:
        """0, as of a socket that does not block."""
        return 0.0


def parse_head(cfg: Config, head: bytes, client: Any) -> Request:
    """gunicorn's request. Raises gunicorn's exceptions if it is not one."""
    request = Request(cfg, MemoryUnreader(head), client)
    return request


def declared_length(request: Request) -> int | None:
    """The length of the body that follows; None if it is chunked."""
    reader = request.body.reader
    if isinstance(reader, ChunkedReader):
        return None
    assert isinstance(reader, LengthReader)
    length: int = reader.length
    return length


def buffered_body(connection: Connection, room: int) -> BufferedBody:
    """The body of the connection's request, with the framing of chunks removed by gunicorn."""
    arrival, body = connection.arrival, connection.body
    if connection.chunks is not None:
        unreader = connection.request.unreader
        unreader.replace(connection.body)
        body = bytearray()
        try:
            while part := connection.request.body.read(READ_BYTES):
                body += part
        except Exception:
            # gunicorn has its own exceptions for malformed chunks, and they also come from an early end.
            if arrival is Arrival.COMPLETE:
                arrival = Arrival.BROKEN
        else:
            if not unreader.is_exhausted():
                # It disagrees on where the body ends: what follows must not be taken for a request.
                arrival = Arrival.BROKEN
    elif connection.filled < len(body):
        del body[connection.filled :]
    connection.body = bytearray()
    connection.arrival = arrival
    return BufferedBody(body, arrival, room, connection.reservation.release)


def answer(app: WsgiApp, cfg: Config, connection: Connection, room: int, closing: bool) -> tuple[Reply, bool]:
    """The reply to the connection's request, and whether the connection may be used for another one.

    Args:
        room: the largest body, in bytes, that the memory for bodies could ever hold.
        closing: the client is told that the connection is closed.

    Raises:
        Exception: whatever the application raises, if nothing of the reply has been written.
    """
    request = connection.request
    body = request.body = buffered_body(connection, room)
    # The event loop has sent 100 Continue, or the body is not wanted.
    request._expected_100_continue = False
    reply = Reply()
    response, environ = wsgi.create(request, reply, connection.client, connection.server, cfg)
    environ["wsgi.multithread"] = True
    environ["gunicorn.socket"] = connection.sock
    if closing or body.arrival is not Arrival.COMPLETE:
        response.force_close()
    parts = app(environ, response.start_response)
    try:
        for part in parts:
            response.write(part)
        response.close()
    finally:
        if close := getattr(parts, "close", None):
            close()
    return reply, not response.should_close()
