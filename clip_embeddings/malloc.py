"""glibc's allocator: when freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Parameters of mallopt(3), from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8


def tune() -> None:
    """Return freed buffers of 8 MiB or more to the system, and share smaller ones between threads.

    By default glibc raises that threshold with every large buffer that is freed, and keeps a heap per thread:
    after a few large pictures, each heap holds hundreds of megabytes. With a lower threshold, the pages of a
    photo's bytes would be requested and returned several times while it is read: 15 ms for 4 MB.
    """
    # Other C libraries have no mallopt.
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 8 * 1024 * 1024)
        mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024)
        mallopt(M_ARENA_MAX, 2)


def trim() -> None:
    """Return what is free in the heaps to the system. It takes about a millisecond."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
