"""A semaphore that admits waiting threads in order of arrival and bounds how many may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class OverloadedError(Exception):
    """The queue of a semaphore is full."""


class FairSemaphore:
    """Admits `width` holders at a time, first come, first served, and lets at most `queue` threads wait.

    threading.Semaphore lets a new thread overtake waiting ones, which could then starve under load.
    """

    def __init__(self, width: int, queue: int) -> None:
        self._free = width
        self._queue = queue
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, *, background: bool = False) -> Iterator[None]:
        """Wait for a place and hold it during the `with` block.

        Raises:
            OverloadedError: the queue is full. Never raised with `background`, which may always wait.
        """
        self._enter(background)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, background: bool) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._waiting) >= self._queue and not background:
                raise OverloadedError
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        # A holder that leaves releases this lock and passes its place on.
        turn.acquire()

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
