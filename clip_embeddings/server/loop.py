"""The event loop of a serving process: reads requests from all connections and hands complete ones on."""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from clip_embeddings.semaphore import FairSemaphore
from clip_embeddings.server.body import Arrival
from clip_embeddings.server.buffering import ChunkScanner, Progress
from clip_embeddings.server.connection import Connection, State
from clip_embeddings.server.limits import (
    CLOSE_TIMEOUT,
    HEAD_TIMEOUT,
    ROOM_TIMEOUT,
    SLOWEST,
    SMALL_BODIES,
    SMALL_BODY,
    ServerLimits,
)
from clip_embeddings.server.reservations import Room

# Bytes that one connection may send before others have their turn. Every read releases Python's lock, and
# taking it back can take milliseconds while a thread computes: large bodies are read in large pieces.
READ_BYTES = 64 * 1024
READ_BODY_BYTES = 1024 * 1024

_HEAD_TIMED_OUT = b"The header of the request stopped coming.\n"
HEAD_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HEAD_TIMED_OUT), _HEAD_TIMED_OUT)
)


class Handler(Protocol):
    """What the loop asks of the server around it."""

    def parse(self, connection: Connection, head: bytes) -> int | None:
        """Set the connection's request; the length of its body, None if it is chunked.

        Raises:
            Exception: the head is not one.
        """

    def refuse(self, connection: Connection, error: Exception) -> bytes:
        """The reply to a head that `parse` refused with `error`; empty for none."""

    def submit(self, connection: Connection) -> None:
        """Answer the request in another thread, then have `EventLoop.finish` called in the loop's."""


class EventLoop:
    """Every connection is in one of the states of `State`, with a deadline; events and deadlines move it on.

    Args:
        wake: makes the thread of the loop call `admit`.
        keepalive: seconds that a connection is kept for its next request.
    """

    def __init__(
        self, limits: ServerLimits, handler: Handler, keepalive: float, wake: Callable[[], None]
    ) -> None:
        self.connections: set[Connection] = set()
        self.poller = selectors.DefaultSelector()
        self.large = Room(limits.bodies, wake)
        self._small = Room(FairSemaphore(SMALL_BODIES, 0), wake)
        self._limits = limits
        self._handler = handler
        self._keepalive = keepalive
        # No deadline of a request that arrives is later than this.
        self._last_deadline = math.inf

    @property
    def largest_body(self) -> int:
        """The largest body, in bytes, for which there is room."""
        return max(self.large.bytes, SMALL_BODY)

    def admit(self) -> None:
        """Give the room that has become free to bodies that wait for it."""
        self._small.admit()
        self.large.admit()

    def open(self, sock: socket.socket, client: Any, server: Any) -> None:
        """Serve a new connection."""
        connection = Connection(sock, client, server, time.monotonic() + HEAD_TIMEOUT)
        self.connections.add(connection)
        # Most clients have sent their request by now.
        self.on_ready(connection)

    def on_ready(self, connection: Connection) -> None:
        """Read or write what can be read or written now."""
        try:
            state = connection.state
            if state is State.IDLE or state is State.HEAD:
                self._read_head(connection)
            elif state is State.BODY:
                self._read_body(connection)
            elif state is State.REPLY:
                connection.send_unsent()
                self._replied(connection)
            elif state is State.CLOSE:
                self._discard(connection)
        except OSError:
            # The client is gone.
            self._drop(connection)

    def finish(self, connection: Connection, keep: bool) -> None:
        """Go on after a request: `keep` tells whether the connection may be used for another one."""
        arrival = connection.arrival
        connection.reservation.release()
        connection.next_request()
        connection.arrival = arrival
        self._finish(connection, keep)

    def _finish_unread(self, connection: Connection) -> None:
        """Close the connection once the client has taken the reply to what was not read to its end."""
        connection.arrival = Arrival.BROKEN
        self._finish(connection, keep=False)

    def _finish(self, connection: Connection, keep: bool) -> None:
        connection.keep = keep
        unsent = sum(map(len, connection.unsent))
        if unsent:
            # The client does not read as fast as it asks. Its replies are kept as far as there is room.
            room = self._small if self._small.reserve(unsent) else self.large
            if room is self.large and not room.reserve(unsent):
                self._drop(connection)
                return
            connection.reservation.add(room, unsent)
            seconds = self._limits.body_timeout + unsent / SLOWEST
            self._enter(connection, State.REPLY, min(self._last_deadline, time.monotonic() + seconds))
        self._replied(connection)

    def expire(self, now: float) -> None:
        """Give up what has lasted too long."""
        for connection in [each for each in self.connections if each.deadline <= now]:
            try:
                self._give_up(connection)
            except OSError:
                self._drop(connection)

    def stop(self, now: float, idle: float, arriving: float) -> None:
        """Close idle connections after `idle` seconds, and those whose request is incomplete after `arriving`."""
        self._last_deadline = now + arriving
        self._keepalive = min(self._keepalive, idle)
        for connection in self.connections:
            if connection.state is State.IDLE:
                connection.deadline = min(connection.deadline, now + idle)
            elif connection.state is not State.THREAD:
                connection.deadline = min(connection.deadline, self._last_deadline)

    def _read_head(self, connection: Connection) -> None:
        data = connection.receive(READ_BYTES)
        if data is None:
            self._watch(connection, selectors.EVENT_READ)
            return
        if not data:
            # Half a head cannot be answered.
            self._drop(connection)
            return
        connection.data += data
        self._scan_head(connection)

    def _scan_head(self, connection: Connection) -> None:
        progress = connection.head.scan(connection.data)
        if progress is Progress.MORE:
            if connection.state is State.IDLE:
                self._enter(connection, State.HEAD, time.monotonic() + HEAD_TIMEOUT)
            self._watch(connection, selectors.EVENT_READ)
            return
        size = connection.head.size if progress is Progress.COMPLETE else len(connection.data)
        head = bytes(memoryview(connection.data)[:size])
        del connection.data[:size]
        try:
            length = self._handler.parse(connection, head)
        except Exception as error:
            connection.send([self._handler.refuse(connection, error)])
            self._finish_unread(connection)
            return
        if progress is not Progress.COMPLETE:
            # gunicorn sees a request where none was seen here: it is not trusted any further.
            self._drop(connection)
        elif length is None:
            self._begin_chunks(connection)
        else:
            self._begin_body(connection, length)

    def _begin_body(self, connection: Connection, length: int) -> None:
        room = self._small if length <= SMALL_BODY else self.large
        if length == 0:
            self._submit(connection)
        elif not self._limits.wants_body(connection.request.headers):
            self._submit(connection, Arrival.BROKEN)
        elif length > self._limits.body_bytes:
            self._submit(connection, Arrival.TOO_LARGE)
        elif length > room.bytes:
            self._submit(connection, Arrival.NEVER_FITS)
        else:
            self._with_room(connection, room, length, lambda: self._place_body(connection, length))

    def _place_body(self, connection: Connection, length: int) -> None:
        if len(connection.data) == length:
            connection.body, connection.data = connection.data, bytearray()
            connection.filled = length
            self._submit(connection)
            return
        connection.body = bytearray(length)
        connection.filled = min(length, len(connection.data))
        connection.body[: connection.filled] = connection.data[:length]
        del connection.data[:length]
        if connection.filled == length:
            self._submit(connection)
        else:
            self._await_body(connection)

    def _begin_chunks(self, connection: Connection) -> None:
        if not self._limits.wants_body(connection.request.headers):
            self._submit(connection, Arrival.BROKEN)
            return
        connection.chunks = ChunkScanner(self._limits.body_bytes)
        connection.body, connection.data = connection.data, bytearray()
        self._scan_chunks(connection)

    def _scan_chunks(self, connection: Connection) -> None:
        assert connection.chunks is not None
        progress = connection.chunks.scan(connection.body)
        if progress is Progress.COMPLETE:
            connection.data = connection.body[connection.chunks.size :]
            del connection.body[connection.chunks.size :]
            self._submit(connection)
        elif progress is Progress.TOO_LARGE:
            self._submit(connection, Arrival.TOO_LARGE)
        elif progress is Progress.MALFORMED:
            self._submit(connection, Arrival.BROKEN)
        else:
            self._extend_room(connection)

    def _extend_room(self, connection: Connection) -> None:
        """Read more of a chunked body, whose size is not known, once there is room for it."""
        reserved = connection.reservation.bytes
        # Twice, because the body without its framing is a copy.
        if 2 * (len(connection.body) + READ_BYTES) <= reserved:
            self._await_body(connection)
        elif reserved >= self.large.bytes:
            self._submit(connection, Arrival.NEVER_FITS)
        else:
            amount = min(max(reserved, 4 * READ_BYTES), self.large.bytes - reserved)
            self._with_room(connection, self.large, amount, lambda: self._extend_room(connection))

    def _await_body(self, connection: Connection) -> None:
        """Wait for more of the body."""
        if connection.request._expected_100_continue:
            connection.request._expected_100_continue = False
            connection.send([b"HTTP/1.1 100 Continue\r\n\r\n"])
        if connection.state is not State.BODY:
            # Waiting for room takes none of the client's time.
            self._enter(connection, State.BODY, math.inf)
            connection.body_started = time.monotonic()
            connection.filled_before = self._arrived(connection)
        moved = self._arrived(connection) - connection.filled_before
        connection.deadline = min(
            self._last_deadline, connection.body_started + self._limits.body_timeout + moved / SLOWEST
        )
        self._watch(connection, selectors.EVENT_READ)

    def _arrived(self, connection: Connection) -> int:
        return len(connection.body) if connection.chunks else connection.filled

    def _read_body(self, connection: Connection) -> None:
        if connection.chunks is not None:
            data = connection.receive(READ_BYTES)
            if data:
                connection.body += data
                self._scan_chunks(connection)
        else:
            connection.receive_body(READ_BODY_BYTES)
            if connection.filled == len(connection.body):
                self._submit(connection)
            elif not connection.ended:
                self._await_body(connection)
        if connection.ended:
            self._submit(connection, Arrival.BROKEN)

    def _with_room(
        self, connection: Connection, room: Room, amount: int, proceed: Callable[[], None]
    ) -> None:
        """Call `proceed` once `amount` bytes of `room` are reserved. Until then nothing is read."""
        reservation = connection.reservation

        def begin() -> None:
            reservation.add(room, amount)
            try:
                proceed()
            except OSError:
                self._drop(connection)

        if room.reserve(amount):
            begin()
            return
        self._enter(connection, State.ROOM, min(self._last_deadline, time.monotonic() + ROOM_TIMEOUT))
        self._watch(connection, 0)
        room.wait(
            amount,
            begin,
            lambda: connection.state is State.ROOM and connection.reservation is reservation,
        )

    def _submit(self, connection: Connection, arrival: Arrival = Arrival.COMPLETE) -> None:
        self._watch(connection, 0)
        self._enter(connection, State.THREAD, math.inf)
        connection.arrival = arrival
        self._handler.submit(connection)

    def _replied(self, connection: Connection) -> None:
        """Go on after the reply, or as much of it as the client has taken."""
        if connection.unsent:
            self._watch(connection, selectors.EVENT_WRITE)
        elif connection.keep:
            self._enter(connection, State.IDLE, time.monotonic() + self._keepalive)
            if connection.data:
                self._scan_head(connection)
            else:
                self._watch(connection, selectors.EVENT_READ)
        elif connection.ended or (connection.arrival is Arrival.COMPLETE and not connection.data):
            self._drop(connection)
        else:
            # Closing now, with bytes that nobody has read, would break the connection before the client has
            # read the reply (RFC 9112, section 9.6).
            connection.sock.shutdown(socket.SHUT_WR)
            connection.data = bytearray()
            self._enter(connection, State.CLOSE, time.monotonic() + CLOSE_TIMEOUT)
            self._watch(connection, selectors.EVENT_READ)

    def _discard(self, connection: Connection) -> None:
        data = connection.receive(READ_BYTES)
        connection.discarded += len(data or b"")
        if connection.ended or connection.discarded > self._limits.body_bytes:
            self._drop(connection)

    def _give_up(self, connection: Connection) -> None:
        state = connection.state
        if state is State.IDLE:
            # A request may have come at the last moment.
            self._read_head(connection)
            if connection.state is State.IDLE:
                self._drop(connection)
        elif state is State.HEAD:
            connection.send([HEAD_TIMED_OUT])
            self._finish_unread(connection)
        elif state is State.BODY:
            self._submit(connection, Arrival.TOO_SLOW)
        elif state is State.ROOM:
            self._submit(connection, Arrival.NO_ROOM)
        else:
            self._drop(connection)

    def _enter(self, connection: Connection, state: State, deadline: float) -> None:
        connection.state = state
        connection.deadline = deadline

    def _watch(self, connection: Connection, events: int) -> None:
        if events == connection.events:
            return
        if not connection.events:
            self.poller.register(connection.sock, events, connection)
        elif not events:
            self.poller.unregister(connection.sock)
        else:
            self.poller.modify(connection.sock, events, connection)
        connection.events = events

    def _drop(self, connection: Connection) -> None:
        if connection in self.connections:
            self._watch(connection, 0)
            self.connections.remove(connection)
            self._enter(connection, State.CLOSE, math.inf)
            connection.close()
