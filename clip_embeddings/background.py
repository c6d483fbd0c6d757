"""A thread beside those that answer requests, in the process that serves."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


class BackgroundThread:
    """Runs `work` in a thread of low priority, which ends with the process or when `stopping` is set."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._name = name
        self._work = work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Call it in the process that serves; repeated calls are cheap."""
        # A thread does not survive a fork: after one, this starts another.
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if (self._thread is None or not self._thread.is_alive()) and not self.stopping.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ask `work` to end, and wait for that, but no longer than `timeout` seconds."""
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        _lower_priority()
        self._work()


def _lower_priority() -> None:
    """Let threads that answer requests go before this one and those it starts; only Linux can."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + 10))
