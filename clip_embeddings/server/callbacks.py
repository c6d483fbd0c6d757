"""Calls that other threads, and signal handlers, leave for the thread of the event loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Callbacks:
    """A queue of calls, with a pipe that a poller watches.

    gunicorn's own writes into its pipe for every call.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        # Whether the pipe holds a byte, or is about to.
        self._awake = False

    def fileno(self) -> int:
        """What becomes readable when there are calls."""
        return self._reading

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have `call(*arguments)` called by `run`. Never waits."""
        self._calls.append((call, arguments))
        if not self._awake:
            self._awake = True
            with suppress(BlockingIOError):
                os.write(self._writing, b"\0")

    def run(self, _: Any = None) -> None:
        """Call what has been left."""
        with suppress(BlockingIOError):
            os.read(self._reading, 4096)
        # Before the queue is emptied: what comes later wakes the loop again.
        self._awake = False
        for _ in range(len(self._calls)):
            call, arguments = self._calls.popleft()
            call(*arguments)
