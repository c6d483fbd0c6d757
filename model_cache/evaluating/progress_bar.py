"""A progress bar on standard error."""

from __future__ import annotations

import sys
import time

_WIDTH = 30
# Seconds between two updates: on a terminal, and elsewhere, where each is a line.
_TERMINAL_INTERVAL, _LINE_INTERVAL = 0.1, 15.0


class ProgressBar:
    """Shows how much of `total` is done, and how long the rest takes. Nothing for what takes no time."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        # Items that took time: those found in a cache tell nothing about the rest.
        self._made = 0
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def add(self, count: int, *, made: bool = True) -> None:
        """Count `count` more items as done; not `made` if they were there already."""
        self._done += count
        self._made += count if made else 0
        interval = _TERMINAL_INTERVAL if self._terminal else _LINE_INTERVAL
        if time.monotonic() - self._shown >= interval:
            self._show()

    def close(self) -> None:
        """End the line."""
        if self._terminal:
            self._show()
            print(file=sys.stderr)

    def _show(self) -> None:
        self._shown = time.monotonic()
        share = self._done / max(1, self._total)
        bar = "#" * round(_WIDTH * share)
        text = f"  [{bar:{_WIDTH}}] {self._done:,} of {self._total:,}{self._time_left()}"
        # Erases what a longer text left: ECMA-48, EL.
        print(
            f"\r{text}\x1b[K" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()

    def _time_left(self) -> str:
        left = self._total - self._done
        if not self._made or not left:
            return ""
        seconds = (time.monotonic() - self._started) / self._made * left
        return f", {seconds // 60:.0f}:{seconds % 60:02.0f} left"
