"""The differences between a bucket and its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from clip_embeddings.config import TaskSettings
from clip_embeddings.index.types import IndexedVersion
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.types import UP_TO_DATE, Change, Deletion, ObjectVersion, Report
from clip_embeddings.storage.types import ALL_NAMES, NameRange, Stat

# Name and properties of an object of the bucket.
Listed = tuple[str, Stat]


def differences(
    indexed_bucket: IndexedBucket,
    fingerprint: str,
    report: Report,
    prefix: str = "",
    task: TaskSettings | None = None,
    within: NameRange = ALL_NAMES,
) -> Iterator[Change]:
    """The changes after which the index has an entry with this fingerprint for every object, and no others.

    Bucket and index are both listed in the order of names and compared while they are read, so memory does
    not grow with their size. Objects that need no change are counted in `report`.

    Args:
        prefix: only names that start with it.
        task: only the names that a hash assigns to this task; None for all names.
        within: only names of this range. What is outside of it is not listed.

    Raises:
        StorageError: the bucket or the index cannot be listed.
    """
    if within.is_empty:
        return
    bucket, index = indexed_bucket.bucket, indexed_bucket.index
    listed: Iterable[Listed] = bucket.stats(prefix, within)
    indexed: Iterable[IndexedVersion] = index.generations(indexed_bucket.name, prefix, within)
    if task:
        listed = (item for item in listed if in_shard(item[0], task))
        indexed = (item for item in indexed if in_shard(item.name, task))
    for name, stat, entry in _merge_join(listed, indexed):
        if stat is None:
            # The object may have been written after the bucket was listed, so it is looked up again.
            if entry and bucket.stat(name) is None:
                yield Deletion(name, entry.generation)
        else:
            yield from compare(name, stat, entry, indexed_bucket, fingerprint, report)


def compare(
    name: str,
    stat: Stat,
    entry: IndexedVersion | None,
    indexed_bucket: IndexedBucket,
    fingerprint: str,
    report: Report,
) -> Iterator[Change]:
    """The changes after which the index has an entry with this fingerprint for an object that exists.

    Args:
        entry: what the index holds of it now.
        report: the object is counted in it if it needs no change.
    """
    if entry and (entry.generation, entry.fingerprint) == (stat.generation, fingerprint):
        report.skipped[UP_TO_DATE] += 1
    elif not entry or entry.generation <= stat.generation:
        yield ObjectVersion(name, stat)
    elif indexed_bucket.generations_recur:
        # The index keeps the higher of two generations, unless that one is deleted with `forget` first.
        yield Deletion(name, entry.generation)
        yield ObjectVersion(name, stat)
    else:
        # The object was written again, and indexed, after the bucket was listed.
        report.skipped[UP_TO_DATE] += 1


def in_shard(name: str, task: TaskSettings) -> bool:
    """Whether an object belongs to this task. A hash decides, so every run assigns it to the same task."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % task.count == task.index


def _merge_join(
    listed: Iterable[Listed], indexed: Iterable[IndexedVersion]
) -> Iterator[tuple[str, Stat | None, IndexedVersion | None]]:
    """Join two lists that are ordered by name: each name once, with its item of either list or None.

    If a list has another order, a name may come once for each list, which costs work but loses nothing.
    """
    listed_items, indexed_items = iter(listed), iter(indexed)
    stored, entry = next(listed_items, None), next(indexed_items, None)
    while stored or entry:
        if entry is None or (stored and stored[0] < entry.name):
            assert stored is not None
            yield stored[0], stored[1], None
            stored = next(listed_items, None)
        elif stored is None or entry.name < stored[0]:
            yield entry.name, None, entry
            entry = next(indexed_items, None)
        else:
            yield stored[0], stored[1], entry
            stored, entry = next(listed_items, None), next(indexed_items, None)
