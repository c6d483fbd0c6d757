"""What differs between a bucket and its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeVar

from clip_embeddings.config import TaskSettings
from clip_embeddings.photos.collection import IndexedBucket
from clip_embeddings.photos.indexer import Change, Deletion, ObjectVersion, Report
from clip_embeddings.storage.types import Stat

T = TypeVar("T")

Known = tuple[str, int, str]


def differences(
    collection: IndexedBucket,
    fingerprint: str,
    report: Report,
    prefix: str = "",
    task: TaskSettings | None = None,
) -> Iterator[Change]:
    """What is to be done so that the index has exactly the present photos, each as `fingerprint` says.

    Both sides come in the order of names and are held against each other as they come: memory does not grow
    with their number. What needs nothing done is counted in `report`.

    Args:
        prefix: only names that start with it.
        task: only this task's share of the names.

    Raises:
        StorageError: the bucket or the index cannot be listed.
    """
    mine = partial(in_shard, task=task or TaskSettings())
    listed = (item for item in collection.bucket.stats(prefix) if mine(item[0]))
    known = (item for item in collection.index.generations(collection.name, prefix) if mine(item[0]))
    for name, stat, entry in _merge_join(listed, known):
        if stat is None:
            # Written since the bucket was listed, it is there.
            if entry and collection.bucket.stat(name) is None:
                yield Deletion(name, entry[1])
        elif entry and entry[1:] == (stat.generation, fingerprint):
            report.skipped["already there"] += 1
        elif not entry or entry[1] <= stat.generation:
            yield ObjectVersion(name, stat)
        elif collection.generations_recur:
            # The index keeps the newer of two generations unless it has forgotten it.
            yield Deletion(name, entry[1])
            yield ObjectVersion(name, stat)
        else:
            # Written since the bucket was listed.
            report.skipped["already there"] += 1


def in_shard(name: str, task: TaskSettings) -> bool:
    """Whether an object is this task's: by a hash, so that every run deals them out alike."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % task.count == task.index


def _merge_join(
    listed: Iterable[tuple[str, Stat]], known: Iterable[Known]
) -> Iterator[tuple[str, Stat | None, Known | None]]:
    """Of two lists in the order of names, each name once, with what either has.

    A list in another order costs work, but loses nothing: a name then comes once for each side.
    """
    left, right = iter(listed), iter(known)
    here, there = next(left, None), next(right, None)
    while here or there:
        if there is None or (here and here[0] < there[0]):
            assert here is not None
            yield here[0], here[1], None
            here = next(left, None)
        elif here is None or there[0] < here[0]:
            yield there[0], None, there
            there = next(right, None)
        else:
            yield here[0], here[1], there
            here, there = next(left, None), next(right, None)
