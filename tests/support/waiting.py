"""Waits for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Wait until the condition is true; returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "the condition was not met in time"
        time.sleep(0.02)
    return time.monotonic() - started
