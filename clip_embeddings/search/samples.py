"""A random sample of the collection, kept in memory: what scores are usual, and which labels there are."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping

import msgspec
import numpy as np

from clip_embeddings.index.types import Index
from clip_embeddings.logs import logger
from clip_embeddings.storage.types import StorageError

# Entries of a sample: 2 MB of memory at 512 dimensions. The median of 1,000 scores is known to 0.04 of their
# standard deviation.
SAMPLE_SIZE = 1000
# Samples that are kept: a process searches one space, and those of models that its index had before.
MAX_SPACES = 4
# Seconds after which a search counts the entries again, where the sample has all of them and where it has
# not; and the share by which their number must have changed for a new sample.
CHECK_SECONDS, CHECK_SECONDS_LARGE = 2.0, 60.0
CHANGE = 0.1
# Seconds after which a new sample is taken where the number of entries has changed at all, and anyhow.
CHANGED_AGE, MAX_AGE = 300.0, 3600.0
# The largest share of the time that is spent on samples.
TIME_SHARE = 0.01


class Sample(msgspec.Struct, frozen=True):
    """What a random choice of entries of one space says about all of them."""

    # (n, d) float32 of length 1.
    vectors: np.ndarray
    # How many of the n carry each label.
    labels: Mapping[str, int]
    # Entries of the space when the sample was taken.
    count: int

    @property
    def is_everything(self) -> bool:
        """Whether the sample has every entry."""
        return len(self.vectors) >= self.count


class _Kept(msgspec.Struct):
    sample: Sample
    # The value of Index.replacements before it was taken.
    replacements: int
    # Times of time.monotonic().
    taken: float
    next_check: float


class Samples:
    """The samples of an index, by space. Threads share it; no request waits for another one's sample."""

    def __init__(self, index: Index, bucket: str | None) -> None:
        self._index = index
        self._bucket = bucket
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def get(self, space: str, max_age: float = MAX_AGE) -> Sample | None:
        """A sample of the entries of `space`; None if there are none, or if the index does not answer.

        Args:
            max_age: seconds after which another sample is taken.
        """
        kept = self._kept.get(space)
        now = time.monotonic()
        is_old = kept is not None and now > kept.taken + max_age
        is_due = kept is None or is_old or now >= kept.next_check
        # Whoever comes meanwhile uses the sample that there is, or waits for the first one.
        if is_due and self._lock.acquire(blocking=kept is None):
            try:
                kept = self._check(space, max_age)
            finally:
                self._lock.release()
        return kept.sample if kept and len(kept.sample.vectors) else None

    def _check(self, space: str, max_age: float) -> _Kept:
        kept, started = self._kept.get(space), time.monotonic()
        if kept is not None and started < min(kept.next_check, kept.taken + max_age):
            # Another thread has just taken it.
            return kept
        try:
            replacements, count = self._index.replacements(), self._index.count(space)
            is_other = kept is not None and kept.replacements != replacements
            if kept is None or is_other or _is_outdated(kept, count, started, max_age):
                kept = _Kept(self._take(space, count), replacements, started, 0)
        except StorageError as error:
            # A search goes on without: it fails by itself if the index cannot be used at all.
            logger.warning("no sample of the index could be taken: %s", error)
            if kept is None:
                # Who waited for this one goes on without, too, instead of failing one after the other.
                kept = _Kept(Sample(np.empty((0, 0), np.float32), {}, 0), -1, started, 0)
        now = time.monotonic()
        pause = CHECK_SECONDS if kept.sample.is_everything else CHECK_SECONDS_LARGE
        if len(kept.sample.vectors):
            pause = max(pause, (now - started) / TIME_SHARE)
        kept.next_check = now + pause
        self._kept[space] = kept
        self._kept.move_to_end(space)
        while len(self._kept) > MAX_SPACES:
            self._kept.popitem(last=False)
        return kept

    def _take(self, space: str, count: int) -> Sample:
        entries = self._index.sample(space, SAMPLE_SIZE, bucket=self._bucket) if count else []
        labels = Counter(label for entry in entries for label in entry.labels)
        vectors = np.stack([entry.vector for entry in entries]) if entries else np.empty((0, 0), np.float32)
        return Sample(vectors, labels, count)


def _is_outdated(kept: _Kept, count: int, now: float, max_age: float) -> bool:
    age, change = now - kept.taken, abs(count - kept.sample.count)
    if change > CHANGE * kept.sample.count:
        return True
    return age >= max_age or bool(change and age > CHANGED_AGE)
