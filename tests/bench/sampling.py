"""Watches the memory of a running service from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.bench.services import Running

INTERVAL = 0.003


@dataclass
class Peak:
    """The most anonymous memory of all processes together, in MiB, since the start of the watch."""

    mebibytes: float = 0.0


@contextmanager
def watching(server: Running) -> Iterator[Peak]:
    """Sample the anonymous memory of `server` every 3 ms while the block runs.

    Anonymous memory is what has no file behind it: it cannot be dropped, and counts in full towards the limit
    of a container. The weights of a model that are mapped from its file are not in it.
    """
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while True:
            # A process may end between the list and the look.
            with suppress(OSError, ValueError):
                peak.mebibytes = max(peak.mebibytes, server.tree_anonymous())
            if stop.wait(INTERVAL):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def settled(server: Running, seconds: float) -> float:
    """Anonymous memory in MiB after `seconds` in which nothing is asked."""
    time.sleep(seconds)
    return server.tree_anonymous()
