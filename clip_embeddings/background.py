"""A background thread in a serving process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


class BackgroundThread:
    """Runs `work` in a daemon thread of low priority; `work` must return soon after `stopping` is set."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._name = name
        self._work = work
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

    def stop(self, timeout: float) -> None:
        """Set `stopping` and wait for `work` to return, for at most `timeout` seconds."""
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        _lower_priority()
        self._work()


def _lower_priority() -> None:
    """Lower the priority of this thread and of those it starts. Only Linux has priorities per thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness + 10))
