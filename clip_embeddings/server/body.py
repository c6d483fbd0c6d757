"""What a request handler learns from the server: the body, how its arrival ended, if the client is there."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any


class Arrival(Enum):
    """How the arrival of a body ended. Except for COMPLETE, the server closes the connection afterwards."""

    COMPLETE = "complete"
    # The client closed the connection, or sent what is not a body.
    BROKEN = "broken"
    # It was not read, because the request may not have a body of this size.
    UNWANTED = "unwanted"
    # It came more slowly than is allowed.
    TOO_SLOW = "too slow"
    # It is larger than any request may be. It was not read.
    TOO_LARGE = "too large"
    # It is larger than the memory for bodies. It was not read, or not to its end.
    NEVER_FITS = "never fits"
    # Other bodies took the memory for too long. It was not read, or not to its end.
    NO_ROOM = "no room"


class BufferedBody(io.RawIOBase):
    """The body of a request, in memory: a WSGI input stream whose bytes can also be taken without a copy.

    Args:
        data: what has arrived.
        room: the largest body, in bytes, that the memory for bodies could ever hold.
        release: gives the memory back to the budget.
    """

    def __init__(
        self,
        data: bytearray,
        arrival: Arrival = Arrival.COMPLETE,
        room: int = 0,
        release: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.arrival = arrival
        self.room = room
        self._data = data
        self._position = 0
        self._release = release

    @property
    def size(self) -> int:
        """How many bytes have arrived and were not taken."""
        return len(self._data)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; returns the number of bytes, 0 at the end.

        Raises:
            TimeoutError: at the end, if the body came too slowly.
            OSError: at the end, if the body did not arrive as a whole for another reason.
        """
        with memoryview(buffer) as target, memoryview(self._data) as data:
            part = data[self._position : self._position + target.nbytes]
            target.cast("B")[: len(part)] = part
            count = len(part)
            part.release()
            if target.nbytes:
                self._moved(count)
        return count

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes, or all that remain. Raises as `readinto`."""
        end = len(self._data) if size is None or size < 0 else self._position + size
        with memoryview(self._data) as view:
            part = bytes(view[self._position : end])
        if size != 0:
            self._moved(len(part))
        return part

    def _moved(self, count: int) -> None:
        """Go on by what was read, nothing at the end."""
        self._position += count
        if not count and self.arrival is not Arrival.COMPLETE:
            raise TimeoutError if self.arrival is Arrival.TOO_SLOW else OSError(self.arrival.value)

    def take(self) -> bytearray:
        """What has arrived, without a copy. The stream is empty afterwards."""
        data, self._data, self._position = self._data, bytearray(), 0
        return data

    def release(self) -> None:
        """Give the memory back to the budget: the caller has dropped, or is about to drop, what it took.

        The server does so at the end of the request at the latest.
        """
        self._data, self._position = bytearray(), 0
        if self._release:
            self._release()


def is_connected(environ: Mapping[str, Any]) -> bool:
    """Whether the client of a WSGI request is still there: False once it has closed the connection.

    It costs one system call. A client that has closed only its own direction counts as gone, as in nginx.
    Where the server tells nothing about the connection, the client counts as connected.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None or not hasattr(socket, "MSG_DONTWAIT"):
        return True
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
