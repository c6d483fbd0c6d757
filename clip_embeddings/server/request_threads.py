"""The threads that answer requests, started as they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class RequestThreads(Generic[T]):
    """Calls `work` with what is submitted, in order, in at most `most` threads.

    Unlike concurrent.futures, it makes no object per call, and the end of the process does not wait for it.
    Only one thread may submit. `work` must not raise.
    """

    def __init__(self, most: int, work: Callable[[T], None]) -> None:
        self._most = most
        self._work = work
        self._queue: SimpleQueue[T] = SimpleQueue()
        self._started = 0
        # One entry per call that has ended, less those that a submission has counted: appending is atomic.
        self._ended: list[None] = []
        self._idle = 0

    def is_busy(self) -> bool:
        """Whether what is submitted now must wait for a thread."""
        while self._ended:
            self._ended.pop()
            self._idle += 1
        return self._idle <= 0 and self._started == self._most

    def submit(self, item: T) -> None:
        """Call `work(item)` in a thread. Never waits."""
        self.is_busy()
        self._queue.put(item)
        if self._idle > 0 or self._started == self._most:
            self._idle -= 1
            return
        self._started += 1
        threading.Thread(target=self._run, name=f"request-{self._started}", daemon=True).start()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            self._work(item)
            del item
            self._ended.append(None)
