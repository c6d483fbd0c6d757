"""Background threads in a serving process."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress


class BackgroundThread:
    """Runs `work` in a daemon thread of low priority; `work` must return soon after `stopping` is set.

    Args:
        wake: called after `stopping` is set, for a `work` that waits for something else.
        abandon: called if `work` has not returned in time, and will end with the process.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        wake: Callable[[], None] = lambda: None,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self.stopping = threading.Event()
        self._name = name
        self._work = work
        self._wake = wake
        self._abandon = abandon
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread if it is not running. Call in the serving process; repeated calls are cheap."""
        # A thread does not survive a fork, so after one a new thread is started.
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if (self._thread is None or not self._thread.is_alive()) and not self.stopping.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
                _started.add(self)

    def stop(self, timeout: float) -> None:
        """Set `stopping` and wait for `work` to return, for at most `timeout` seconds."""
        self.begin_stop()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._abandon()

    def begin_stop(self) -> None:
        """Set `stopping`, and do not wait."""
        self.stopping.set()
        self._wake()

    def _run(self) -> None:
        _lower_priority()
        self._work()


# The threads of this process, to be stopped when it ends.
_started: weakref.WeakSet[BackgroundThread] = weakref.WeakSet()


def begin_stop_all() -> None:
    """Have all background threads of this process begin nothing new."""
    for thread in list(_started):
        thread.begin_stop()


def abandon_all() -> None:
    """Stop all background threads of this process without waiting: the process ends next."""
    for thread in list(_started):
        # Whatever fails here is made up for by the next process.
        with suppress(Exception):
            thread.stop(0)


def _lower_priority() -> None:
    """Lower the priority of this thread and of those it starts. Only Linux has priorities per thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness + 10))
