"""Counts the names of a bucket by ranges, with many requests at once.

A bucket is listed in the order of names, one page after the other: a hundred million names are 100,000 pages,
which take hours. So whoever lists a part of the names splits off some of what is left of it whenever another
request could be sent as well, as google-cloud-dataflux does. Nobody knows beforehand where the names are.
Single names are looked up to find out: listings of one result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from clip_embeddings.index.types import names_with_prefix, prefix_end
from clip_embeddings.photos.shares import MAX_CELLS, Cells, Plan, join
from clip_embeddings.storage.types import Bucket, NameRange

# Requests at once: a page takes 3 ms of CPU time here, and many times that to be answered.
PARALLEL = 32
# Pages that are listed before a part is split, and again before it is split once more. To find where costs up
# to 20 look-ups, most often 8.
PAGES_PER_SPLIT = 16
ASCII_END = 0x80


@dataclass
class _Part:
    """A part of the names, which one thread lists."""

    within: NameRange
    cells: Cells = field(default_factory=Cells)
    last: str = ""
    pages: int = 0


def count_names(
    bucket: Bucket,
    name: str,
    prefix: str = "",
    *,
    parallel: int = PARALLEL,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Plan:
    """The plan of the names that start with `prefix`. Lists all of them, once.

    Args:
        name: the value of `Entry.bucket`.
        parallel: requests at once.
        on_progress: called with the number of names so far, in one thread at a time.

    Raises:
        StorageError: the bucket cannot be listed.
    """
    return _Counter(bucket, prefix, parallel, on_progress).run(name)


class _Counter:
    def __init__(
        self, bucket: Bucket, prefix: str, parallel: int, on_progress: Callable[[int], None]
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._parallel = parallel
        self._on_progress = on_progress
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="names")
        # Guards all that follows.
        self._lock = threading.Lock()
        self._parts: list[_Part] = []
        self._running: set[Future[None]] = set()
        self._cells = 0
        self._cell_size = 1
        self._names = 0
        self._stopping = False

    def run(self, name: str) -> Plan:
        self._start(names_with_prefix(self._prefix))
        try:
            # A part adds those that are split off before it ends.
            while running := self._snapshot():
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                with self._lock:
                    self._running -= done
                for future in done:
                    future.result()
        finally:
            self._stopping = True
            self._pool.shutdown()
        self._parts.sort(key=lambda part: part.within.start)
        return join(name, self._prefix, (part.cells for part in self._parts))

    def _snapshot(self) -> set[Future[None]]:
        with self._lock:
            return set(self._running)

    def _start(self, within: NameRange) -> None:
        part = _Part(within)
        with self._lock:
            self._parts.append(part)
            self._running.add(self._pool.submit(self._count, part))

    def _count(self, part: _Part) -> None:
        for page in self._bucket.name_pages(self._prefix, part.within):
            # Its end may have moved since the listing began.
            names = [name for name in page if name in part.within]
            self._add(part, names)
            if self._stopping or len(names) < len(page):
                return
            if part.pages >= PAGES_PER_SPLIT and len(self._running) < self._parallel:
                self._split(part)

    def _add(self, part: _Part, names: list[str]) -> None:
        with self._lock:
            self._cells -= len(part.cells)
            part.cells.add(names, self._cell_size)
            self._cells += len(part.cells)
            while self._cells > MAX_CELLS:
                self._cell_size *= 2
                for other in self._parts:
                    other.cells.merge(self._cell_size)
                self._cells = sum(len(other.cells) for other in self._parts)
            part.pages += 1
            part.last = names[-1] if names else part.last
            self._names += len(names)
            self._on_progress(self._names)

    def _split(self, part: _Part) -> None:
        """Leave the later ones of the names of a part that are not listed yet to another thread."""
        part.pages = 0
        end, start = self._find_split(part.last, part.within.end)
        rest = NameRange(start, part.within.end) if start is not None else None
        part.within = NameRange(part.within.start, end)
        if rest is not None:
            self._start(rest)

    def _find_split(self, last: str, end: str | None) -> tuple[str | None, str | None]:
        """Where to split the names between `last`, which is listed, and `end`.

        Returns:
            The end of the first part, and the first name of the other one; None if there is no other.
        """
        # The shortest beginning of `last` that some later name does not have.
        low, high, sibling = len(self._prefix), len(last), None
        while low < high:
            length = (low + high) // 2
            beyond = prefix_end(last[: length + 1])
            name = None if beyond is None else self._first_name(NameRange(beyond, end))
            if name is None:
                low = length + 1
                if beyond is not None and (end is None or beyond < end):
                    # No name is there, which the next look-up can leave out.
                    end = beyond
            else:
                high, sibling = length, name
        if sibling is None:
            return end, None
        # All later names begin with `shared`, and some go on with another character. In between is halved.
        shared, bottom = last[:high], ord(sibling[high])
        top = ord(end[high]) + 1 if end is not None and end[:high] == shared and len(end) > high else 0x110000
        while (middle := _middle(bottom, top)) > bottom:
            cut = shared + chr(middle)
            name = self._first_name(NameRange(cut, end))
            if name is not None:
                return cut, name
            top, end = middle, cut
        return sibling, sibling

    def _first_name(self, within: NameRange) -> str | None:
        if within.is_empty:
            return None
        pages = self._bucket.name_pages(self._prefix, within, page_size=1)
        # A page of Cloud Storage may be empty although another one follows.
        return next((name for page in pages for name in page), None)


def _middle(bottom: int, top: int) -> int:
    """A character between two, the lower one if there is none: most names are ASCII."""
    middle = ASCII_END if bottom < ASCII_END < top - 1 else (bottom + top) // 2
    # Surrogates are not characters.
    return middle if not 0xD800 <= middle < 0xE000 else 0xE000 if top > 0xE000 else bottom
