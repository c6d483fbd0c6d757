"""One connection of a client, as the event loop sees it."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from enum import Enum
from typing import Any

from clip_embeddings.server.body import Arrival
from clip_embeddings.server.buffering import ChunkScanner, HeadScanner
from clip_embeddings.server.reservations import Reservation

# A head of this many bytes or more is answered with 431. gunicorn would take up to 800 KB.
MAX_HEAD = 32 * 1024


class State(Enum):
    """What a connection waits for."""

    # A request of which nothing has arrived.
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    # Memory for the body.
    ROOM = "room"
    # A thread, or the end of what it does.
    THREAD = "thread"
    # The client, which has not read the reply yet.
    REPLY = "reply"
    # The client's end of the connection.
    CLOSE = "close"


class Connection:
    """A client's socket, the bytes that have arrived, and the request that they begin."""

    def __init__(self, sock: socket.socket, client: Any, server: Any, deadline: float) -> None:
        sock.setblocking(False)
        self.sock = sock
        # The addresses of the client and of the listening socket.
        self.client = client
        self.server = server
        self.state = State.IDLE
        # Time of time.monotonic() at which the state has lasted too long.
        self.deadline = deadline
        # The events that the poller watches the socket for.
        self.events = 0
        # What has arrived, and is not part of `body` yet.
        self.data = bytearray()
        # Whether the client has closed its direction.
        self.ended = False
        # Parts of the reply that the client has not read yet.
        self.unsent: list[memoryview] = []
        # Whether the connection may be used for another request.
        self.keep = True
        # Bytes that were discarded while the connection waits for its end.
        self.discarded = 0
        self.next_request()

    def next_request(self) -> None:
        """Forget the request."""
        self.head = HeadScanner(MAX_HEAD)
        # gunicorn's request, once the head is complete.
        self.request: Any = None
        # The body of declared length; `filled` bytes of it have arrived.
        self.body = bytearray()
        self.filled = 0
        # What finds the end of a chunked body.
        self.chunks: ChunkScanner | None = None
        self.arrival = Arrival.COMPLETE
        self.reservation = Reservation()
        # When the client's time for the body began, and how much of the body had arrived by then.
        self.body_started = math.inf
        self.filled_before = 0

    def receive(self, size: int) -> bytes | None:
        """Bytes that have arrived, None if there are none now. Notes the end. Raises OSError."""
        try:
            data = self.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        self.ended = not data
        return data

    def receive_body(self, size: int) -> int | None:
        """Receive at most `size` bytes of the body into their place; returns as `receive`."""
        with memoryview(self.body) as view:
            try:
                count = self.sock.recv_into(view[self.filled : self.filled + size])
            except (BlockingIOError, InterruptedError):
                return None
        self.filled += count
        self.ended = not count
        return count

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send as much of `parts` as the client takes now; what remains is in `unsent`. Raises OSError."""
        remaining = [memoryview(part) for part in parts if part]
        while remaining:
            try:
                # IOV_MAX is 1024 on Linux and macOS.
                count = self.sock.sendmsg(remaining[:1024])
            except (BlockingIOError, InterruptedError):
                break
            while remaining and count >= len(remaining[0]):
                count -= len(remaining.pop(0))
            if count:
                remaining[0] = remaining[0][count:]
        self.unsent = remaining

    def send_unsent(self) -> None:
        """Send more of what the client has not read yet. Raises OSError."""
        self.send(self.unsent)

    def close(self) -> None:
        """Close the socket, and give back what the request has reserved."""
        self.reservation.release()
        self.sock.close()
