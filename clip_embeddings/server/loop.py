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
from clip_embeddings.server.body_reader import READ_BYTES, BodyReader
from clip_embeddings.server.buffering import Progress
from clip_embeddings.server.connection import MAX_HEAD, Connection, State
from clip_embeddings.server.connections import Connections
from clip_embeddings.server.limits import (
    CLOSE_TIMEOUT,
    FREE,
    HEAD_TIMEOUT,
    LARGE_HEADS,
    SLOWEST,
    SMALL_BODY,
    ServerLimits,
)
from clip_embeddings.server.reservations import Reservation, Room

# Bodies that are given up at one look at the deadlines.
GIVEN_UP_AT_ONCE = 25


def _plain_reply(status: bytes, sentence: bytes) -> bytes:
    """A reply to what is no request, so that it has no route whose form an error could take."""
    head = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n" % status
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(sentence), sentence)


HEAD_TIMED_OUT = _plain_reply(b"408 Request Timeout", b"The headers of the request came too slowly.\n")
HEAD_TOO_LARGE = _plain_reply(
    b"431 Request Header Fields Too Large", b"The headers have more than %d bytes.\n" % MAX_HEAD
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
        self._connections = Connections()
        self._bodies = BodyReader(self._connections, limits, self._submit, wake)
        # For heads above FREE that have not arrived as a whole.
        self._heads = Room(FairSemaphore(LARGE_HEADS, 0), wake)
        self._limits = limits
        self._handler = handler
        self._keepalive = keepalive

    @property
    def poller(self) -> selectors.BaseSelector:
        """What the loop waits with. The data of its connections' events are `Connection` objects."""
        return self._connections.poller

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._connections.open)

    @property
    def largest_body(self) -> int:
        """The largest body, in bytes, for which there is room."""
        return max(self._bodies.large.bytes, SMALL_BODY)

    def admit(self) -> None:
        """Give the room that has become free to bodies that wait for it."""
        self._bodies.admit()

    def open(self, sock: socket.socket, client: Any, server: Any) -> None:
        """Serve a new connection."""
        connection = Connection(sock, client, server, time.monotonic() + HEAD_TIMEOUT)
        self._connections.open.add(connection)
        # Most clients have sent their request by now.
        self.on_ready(connection)

    def on_ready(self, connection: Connection) -> None:
        """Read or write what can be read or written now."""
        try:
            state = connection.state
            if state is State.IDLE or state is State.HEAD:
                self._read_head(connection)
            elif state is State.BODY:
                self._bodies.read(connection)
            elif state is State.REPLY:
                connection.send_unsent()
                self._replied(connection)
            elif state is State.CLOSE:
                self._read_and_forget(connection)
        except OSError:
            # The client is gone.
            self._connections.drop(connection)

    def finish(self, connection: Connection, keep: bool) -> None:
        """Go on after a request: `keep` tells whether the connection may be used for another one."""
        arrival = connection.arrival
        connection.reservation.release()
        connection.next_request()
        connection.arrival = arrival
        try:
            self._finish(connection, keep)
        except OSError:
            # The client is gone.
            self._connections.drop(connection)

    def _finish_unread(self, connection: Connection) -> None:
        """Close the connection once the client has taken the reply to what was not read to its end."""
        connection.arrival = Arrival.BROKEN
        self._finish(connection, keep=False)

    def _finish(self, connection: Connection, keep: bool) -> None:
        connection.keep = keep
        unsent = sum(map(len, connection.unsent))
        if unsent:
            # The client does not read as fast as it asks. Its replies are kept as far as there is room.
            room = self._bodies.small if self._bodies.small.reserve(unsent) else self._bodies.large
            if room is self._bodies.large and not room.reserve(unsent):
                self._connections.drop(connection)
                return
            connection.reservation.add(room, unsent)
            seconds = self._limits.body_timeout + unsent / SLOWEST
            self._connections.enter(connection, State.REPLY, time.monotonic() + seconds)
        self._replied(connection)

    def expire(self, now: float) -> None:
        """Give up what has lasted too long."""
        answered = 0
        for connection in [one for one in self._connections.open if one.deadline <= now]:
            if connection.state in (State.BODY, State.ROOM):
                # A thread tells the client why. A thousand of them at once would keep other requests waiting.
                answered += 1
                if answered > GIVEN_UP_AT_ONCE:
                    continue
            try:
                self._give_up(connection)
            except OSError:
                self._connections.drop(connection)
        # Those who gave up may have been first in the line.
        self._bodies.admit()

    def stop(self, now: float, idle: float, arriving: float) -> None:
        """Close idle connections after `idle` seconds, those whose request is incomplete after `arriving`."""
        self._connections.last_deadline = now + arriving
        self._keepalive = min(self._keepalive, idle)
        for connection in self._connections.open:
            if connection.state is State.IDLE:
                connection.deadline = min(connection.deadline, now + idle)
            elif connection.state is not State.THREAD:
                connection.deadline = min(connection.deadline, self._connections.last_deadline)

    def _read_head(self, connection: Connection) -> None:
        data = connection.receive(READ_BYTES)
        if data is None:
            self._connections.watch(connection, selectors.EVENT_READ)
            return
        if not data:
            # Half a head cannot be answered.
            self._connections.drop(connection)
            return
        connection.data += data
        self._scan_head(connection)

    def _scan_head(self, connection: Connection) -> None:
        progress = connection.head.scan(connection.data)
        if progress is Progress.MORE:
            if connection.state is State.IDLE:
                self._connections.enter(connection, State.HEAD, time.monotonic() + HEAD_TIMEOUT)
            if len(connection.data) > FREE and not connection.reservation.bytes:
                if not self._heads.reserve(MAX_HEAD):
                    self._connections.drop(connection)
                    return
                connection.reservation.add(self._heads, MAX_HEAD)
            self._connections.watch(connection, selectors.EVENT_READ)
            return
        if progress is Progress.TOO_LARGE:
            connection.send([HEAD_TOO_LARGE])
            self._finish_unread(connection)
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
            self._connections.drop(connection)
        else:
            self._bodies.begin(connection, length)

    def _submit(self, connection: Connection, arrival: Arrival = Arrival.COMPLETE) -> None:
        self._connections.watch(connection, 0)
        self._connections.enter(connection, State.THREAD, math.inf)
        connection.arrival = arrival
        self._handler.submit(connection)

    def _replied(self, connection: Connection) -> None:
        """Go on after the reply, or as much of it as the client has taken."""
        if connection.unsent:
            self._connections.watch(connection, selectors.EVENT_WRITE)
            return
        if connection.reservation.bytes:
            connection.reservation.release()
            connection.reservation = Reservation()
        if connection.keep:
            self._connections.enter(connection, State.IDLE, time.monotonic() + self._keepalive)
            if connection.data:
                self._scan_head(connection)
            else:
                self._connections.watch(connection, selectors.EVENT_READ)
        elif connection.ended or (connection.arrival is Arrival.COMPLETE and not connection.data):
            self._connections.drop(connection)
        else:
            # Closing now, with bytes that nobody has read, would break the connection before the client has
            # read the reply (RFC 9112, section 9.6).
            connection.sock.shutdown(socket.SHUT_WR)
            connection.data = bytearray()
            self._connections.enter(connection, State.CLOSE, time.monotonic() + CLOSE_TIMEOUT)
            self._connections.watch(connection, selectors.EVENT_READ)

    def _read_and_forget(self, connection: Connection) -> None:
        data = connection.receive(READ_BYTES)
        connection.discarded += len(data or b"")
        if connection.ended or connection.discarded > self._limits.body_bytes:
            self._connections.drop(connection)

    def _give_up(self, connection: Connection) -> None:
        state = connection.state
        if state is State.IDLE:
            # A request may have come at the last moment.
            self._read_head(connection)
            if connection.state is State.IDLE:
                self._connections.drop(connection)
        elif state is State.HEAD:
            connection.send([HEAD_TIMED_OUT])
            self._finish_unread(connection)
        elif state is State.BODY:
            self._submit(connection, Arrival.TOO_SLOW)
        elif state is State.ROOM:
            self._submit(connection, Arrival.NO_ROOM)
        else:
            self._connections.drop(connection)
