"""The page cache of Linux: what of a file is in memory, and how to empty it.

A file that was in no process's memory before is read from the disk exactly as far as it is in memory
afterwards, so this counts the bytes that a program reads, file by file and without those of other programs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

# Where root empties the page cache: https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches
DROP = Path("/proc/sys/vm/drop_caches")
PAGE = mmap.PAGESIZE
# What cat reads at once.
PIECE = 128 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *3 * (ctypes.c_int,), ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)

# The pages of each file, by their numbers.
Pages = Mapping[Path, frozenset[int]]


def can_drop() -> bool:
    """Whether this process may empty the page cache."""
    return os.access(DROP, os.W_OK)


def drop() -> None:
    """Empty the page cache, and the cache of folders and inodes. What a process has mapped stays."""
    os.sync()
    DROP.write_text("3")


def read_ahead(path: Path) -> str:
    """KiB that the system reads at once from the disk of `path`, of mapped files around what is needed."""
    device = os.stat(path).st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    queues = (folder / "queue", folder.parent / "queue")
    files = [queue / "read_ahead_kb" for queue in queues]
    return next((file.read_text().strip() for file in files if file.exists()), "?")


def pages(files: Iterable[Path]) -> dict[Path, frozenset[int]]:
    """The pages of `files` that are in memory. Files without any are left out."""
    found = {file: _resident(file) for file in files}
    return {file: numbers for file, numbers in found.items() if numbers}


def without(taken: Pages, other: Pages) -> dict[Path, frozenset[int]]:
    """The pages of `taken` that are not in `other`."""
    left = {file: numbers - other.get(file, frozenset()) for file, numbers in taken.items()}
    return {file: numbers for file, numbers in left.items() if numbers}


def size(taken: Pages) -> float:
    """The size of pages in MB of 10^6 bytes."""
    return sum(map(len, taken.values())) * PAGE / 1e6


def read(taken: Pages) -> None:
    """Read these pages from the first to the last, file by file, as `cat` reads."""
    for file, numbers in taken.items():
        with file.open("rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            for start, stop in _ranges(numbers):
                for offset in range(start, stop, PIECE):
                    os.pread(opened.fileno(), min(PIECE, stop - offset), offset)


def read_by_threads(taken: Pages, threads: int) -> None:
    """Read these pages by as many threads at once, which share them in turn."""
    pieces = [
        {file: frozenset(group)}
        for file, numbers in taken.items()
        for _, group in groupby(sorted(numbers), key=lambda number: number * PAGE // PIECE)
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, pieces))


def _resident(file: Path) -> frozenset[int]:
    """The numbers of the file's pages that are in memory. Opening and mapping a file reads none."""
    length = file.stat().st_size
    if not length:
        return frozenset()
    flags = ctypes.create_string_buffer((length + PAGE - 1) // PAGE)
    with file.open("rb") as opened:
        address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, opened.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap", str(file))
    try:
        if _LIBC.mincore(address, length, flags):
            raise OSError(ctypes.get_errno(), "mincore", str(file))
    finally:
        _LIBC.munmap(address, length)
    return frozenset(number for number, flag in enumerate(flags.raw) if flag & 1)


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The pages as ranges of bytes."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start = number * PAGE
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, (number + 1) * PAGE))
    return ranges
