"""Memory that connections reserve for what they send, before it is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from clip_embeddings.semaphore import FairSemaphore


class Room:
    """A budget of bytes, and those who wait for a part of it, first come, first served.

    Only the thread of the event loop reserves; any thread may release.

    Args:
        wake: called after a release, if anybody waits; makes the event loop call `admit`.
    """

    def __init__(self, budget: FairSemaphore, wake: Callable[[], None]) -> None:
        self.bytes = budget.width
        self._budget = budget
        self._wake = wake
        self._waiting: deque[Callable[[], bool]] = deque()

    def reserve(self, amount: int) -> bool:
        """Reserve `amount` bytes now; False if others wait already, or if there is not enough."""
        return not self._waiting and self._budget.try_acquire(amount)

    def release(self, amount: int) -> None:
        """Give `amount` bytes back."""
        self._budget.release(amount)
        if self._waiting:
            self._wake()

    def wait(self, amount: int, begin: Callable[[], None], is_waiting: Callable[[], bool]) -> None:
        """Call `begin` once `amount` bytes are reserved, unless `is_waiting` is False by then."""

        def attempt() -> bool:
            """Whether the next one may have its turn."""
            if not is_waiting():
                return True
            if not self._budget.try_acquire(amount):
                return False
            begin()
            return True

        self._waiting.append(attempt)

    def admit(self) -> None:
        """Serve those who wait, in order, as far as there is room."""
        while self._waiting:
            attempt = self._waiting.popleft()
            if not attempt():
                self._waiting.appendleft(attempt)
                return


class Reservation:
    """What one request has reserved."""

    def __init__(self) -> None:
        self._parts: list[tuple[Room, int]] = []
        # All of it, in bytes.
        self.bytes = 0

    def add(self, room: Room, amount: int) -> None:
        """Note that `amount` bytes of `room` were reserved."""
        self._parts.append((room, amount))
        self.bytes += amount

    def release(self) -> None:
        """Give everything back. Repeated calls do nothing."""
        parts, self._parts = self._parts, []
        for room, amount in parts:
            room.release(amount)
