"""A semaphore that admits waiting threads in order of arrival and bounds how many may wait.

Its places may be slots, or bytes of a memory budget, of which a holder takes several.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class OverloadedError(Exception):
    """The queue of a semaphore is full, or the wait took too long."""


@dataclass(eq=False)
class _Waiting:
    """A thread that waits for `amount` places. Its lock is released when it has them."""

    amount: int
    turn: threading.Lock = field(default_factory=threading.Lock)
    admitted: bool = False


class FairSemaphore:
    """Hands out `width` places, first come, first served, and lets at most `queue` threads wait.

    threading.Semaphore lets a new thread overtake waiting ones, which could then starve under load.
    """

    def __init__(self, width: int, queue: int) -> None:
        self.width = width
        self._free = width
        self._queue = queue
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(
        self, amount: int = 1, *, background: bool = False, timeout: float | None = None
    ) -> Iterator[None]:
        """Wait for `amount` places and hold them during the `with` block.

        Args:
            amount: at most `width`; more could never be had.
            background: wait even if the queue is full.
            timeout: seconds to wait at most.

        Raises:
            OverloadedError: the queue is full, or `timeout` has passed.
        """
        self._enter(amount, background, timeout)
        try:
            yield
        finally:
            self.release(amount)

    def take(self, amount: int = 1, *, background: bool = False, timeout: float | None = None) -> None:
        """As `acquire`, for places that are given back with `release`."""
        self._enter(amount, background, timeout)

    def try_acquire(self, amount: int = 1) -> bool:
        """Take `amount` places now, to be given back with `release`. False if that takes waiting."""
        with self._lock:
            if self._waiting or amount > self._free:
                return False
            self._free -= amount
            return True

    def release(self, amount: int = 1) -> None:
        """Give `amount` places back."""
        with self._lock:
            self._free += amount
            self._admit()

    def _enter(self, amount: int, background: bool, timeout: float | None) -> None:
        if amount > self.width:
            raise ValueError(f"{amount} places of {self.width} can never be had")
        if self.try_acquire(amount):
            return
        with self._lock:
            if len(self._waiting) >= self._queue and not background:
                raise OverloadedError
            waiting = _Waiting(amount)
            waiting.turn.acquire()
            self._waiting.append(waiting)
            # Places may have been given back since they were refused above.
            self._admit()
        if waiting.turn.acquire(timeout=-1 if timeout is None else timeout):
            return
        with self._lock:
            # The turn may have come between the end of the wait and here.
            if waiting.admitted:
                return
            self._waiting.remove(waiting)
            # It may have been too large for the free places, but those behind it may fit.
            self._admit()
        raise OverloadedError

    def _admit(self) -> None:
        while self._waiting and self._waiting[0].amount <= self._free:
            waiting = self._waiting.popleft()
            self._free -= waiting.amount
            waiting.admitted = True
            waiting.turn.release()
