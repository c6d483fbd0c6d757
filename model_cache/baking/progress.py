"""Progress on standard error: each step with the time it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(description: str) -> Iterator[None]:
    """Print `description` before the block and its duration after it: one line on a terminal, else two."""
    terminal = sys.stderr.isatty()
    print(f"  {description} ...", end="" if terminal else "\n", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        # Ends the line, so that the error message gets one of its own.
        print(end="\n" if terminal else "", file=sys.stderr)
        raise
    print(
        f"{'' if terminal else '  ' + description} {time.perf_counter() - started:.1f} s",
        file=sys.stderr,
        flush=True,
    )
