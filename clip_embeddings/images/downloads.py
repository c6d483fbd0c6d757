"""Memory for the bytes of a picture from a URL or a bucket, reserved before they are read."""

from __future__ import annotations

import time
from types import TracebackType

from clip_embeddings.semaphore import FairSemaphore, OverloadedError


class DownloadMemory:
    """What one download holds of `memory`, until the `with` block ends, in which it should be decoded.

    Args:
        memory: bytes that all downloads share.
        max_bytes: largest download.
        deadline: of time.monotonic(), for the wait; None waits as long as it takes.
    """

    def __init__(self, memory: FairSemaphore, max_bytes: int, deadline: float | None) -> None:
        # More than there is could never be had.
        self.max_bytes = min(max_bytes, memory.width)
        self.background = deadline is None
        self._memory = memory
        self._deadline = deadline
        self._held = 0

    def __enter__(self) -> DownloadMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.release(self._held)

    def reserve(self, size: int | None = None) -> int:
        """Wait for the memory of a download of `size` bytes; None means that the size is not known.

        Returns:
            How many bytes the download may have: `size`, or `max_bytes` if that is less.

        Raises:
            OverloadedError: there was no memory until the deadline.
        """
        amount = self.max_bytes if size is None else min(size, self.max_bytes)
        seconds = None if self._deadline is None else self._deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            raise OverloadedError
        self._memory.take(amount, background=self.background, timeout=seconds)
        self._held += amount
        return amount

    def shrink(self, size: int) -> None:
        """Give back what was reserved beyond `size` bytes."""
        if size < self._held:
            self._memory.release(self._held - size)
            self._held = size
