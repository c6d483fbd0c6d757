"""Reads the bodies of requests without blocking, as far as there is memory for them."""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable

from clip_embeddings.semaphore import FairSemaphore
from clip_embeddings.server.body import Arrival
from clip_embeddings.server.buffering import ChunkScanner, Progress
from clip_embeddings.server.connection import Connection, State
from clip_embeddings.server.connections import Connections
from clip_embeddings.server.limits import FREE, ROOM_TIMEOUT, SLOWEST, SMALL_BODIES, SMALL_BODY, ServerLimits
from clip_embeddings.server.reservations import Room

# Bytes that one connection may send before others have their turn. Every read releases Python's lock, and
# taking it back can take milliseconds while a thread computes: large bodies are read in large pieces.
READ_BYTES = 64 * 1024
READ_BODY_BYTES = 1024 * 1024


class BodyReader:
    """Reads bodies from the connections of an event loop.

    Args:
        submit: called with a connection once its body has arrived, or is given up.
        wake: makes the thread of the loop call `admit`.
    """

    def __init__(
        self,
        connections: Connections,
        limits: ServerLimits,
        submit: Callable[[Connection, Arrival], None],
        wake: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._limits = limits
        self._submit_to = submit
        self.large = Room(limits.bodies, wake)
        # Bodies up to SMALL_BODY: those that are still arriving, and those that arrived with their head.
        # Clients that stall can keep the first full, and not the second.
        self.small = Room(FairSemaphore(SMALL_BODIES, 0), wake)
        self._complete = Room(FairSemaphore(SMALL_BODIES, 0), wake)

    def admit(self) -> None:
        """Give the room that has become free to bodies that wait for it."""
        for room in (self._complete, self.small, self.large):
            room.admit()

    def begin(self, connection: Connection, length: int | None) -> None:
        """Read a body of `length` bytes, or a chunked one, from its beginning."""
        if length is None:
            self._begin_chunks(connection)
            return
        if length <= FREE:
            self._place_body(connection, length)
            return
        is_complete = length <= len(connection.data)
        room = self.large if length > SMALL_BODY else self._complete if is_complete else self.small
        if length > SMALL_BODY and not self._limits.wants_body(dict(connection.request.headers)):
            self._submit(connection, Arrival.UNWANTED)
        elif length > self._limits.body_bytes:
            self._submit(connection, Arrival.TOO_LARGE)
        elif length > room.bytes:
            self._submit(connection, Arrival.NEVER_FITS)
        else:
            self._with_room(connection, room, length, lambda: self._place_body(connection, length))

    def _place_body(self, connection: Connection, length: int) -> None:
        """Receive a body of `length` bytes, for which there is room."""
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
        elif reserved and not self._limits.wants_body(dict(connection.request.headers)):
            self._submit(connection, Arrival.UNWANTED)
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
            self._connections.enter(connection, State.BODY, math.inf)
            connection.body_started = time.monotonic()
            connection.filled_before = self._arrived(connection)
        moved = self._arrived(connection) - connection.filled_before
        seconds = self._limits.body_timeout + moved / SLOWEST
        connection.deadline = min(self._connections.last_deadline, connection.body_started + seconds)
        self._connections.watch(connection, selectors.EVENT_READ)

    def _arrived(self, connection: Connection) -> int:
        return len(connection.body) if connection.chunks else connection.filled

    def read(self, connection: Connection) -> None:
        """Read what has arrived. Raises OSError."""
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
                self._connections.drop(connection)

        if room.reserve(amount):
            begin()
            return
        self._connections.enter(connection, State.ROOM, time.monotonic() + ROOM_TIMEOUT)
        self._connections.watch(connection, 0)
        room.wait(
            amount,
            begin,
            lambda: connection.state is State.ROOM and connection.reservation is reservation,
        )

    def _submit(self, connection: Connection, arrival: Arrival = Arrival.COMPLETE) -> None:
        self._submit_to(connection, arrival)
