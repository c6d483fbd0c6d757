"""The log of this package, for tests that run its code in their own process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def propagated(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let caplog capture the package's log, whatever its present level."""
    log = logging.getLogger("clip_embeddings")
    before = log.level, log.propagate
    log.setLevel("INFO")
    log.propagate = True
    try:
        yield
    finally:
        log.level, log.propagate = before
        log.setLevel(before[0])
