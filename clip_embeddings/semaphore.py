"""How many model runs go at once, in which order the rest wait, and how many may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class OverloadedError(Exception):
    """Too many callers wait already."""


class FairSemaphore:
    """Admits `width` holders at a time, first come, first served, and at most `queue` in waiting.

    threading.Semaphore lets a newcomer overtake those who wait; under load the unlucky would starve.
    """

    def __init__(self, width: int, queue: int) -> None:
        self._free = width
        self._queue = queue
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, *, background: bool = False) -> Iterator[None]:
        """Wait for a place and keep it for the block.

        Raises:
            OverloadedError: the queue is full, and the caller is not `patient`.
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
        # Released by the holder whose place becomes ours.
        turn.acquire()

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
