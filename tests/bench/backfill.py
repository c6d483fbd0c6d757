"""Backfill of a folder into SQLite beside the same pipeline over bytes in memory with no index."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_embeddings.config import Settings
from clip_embeddings.index.types import Entry
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.types import Report
from clip_embeddings.runtime import make_runtime
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Stat
from tests.bench.measure import Samples
from tests.support.indexes import opened_index
from tests.support.photographs import crops

LEAST = 0.9


def report(count: int, rounds: int) -> str:
    """Embed `count` photos both ways in turn, so that a drift of the machine hits both alike.

    With the bundled model, which is small: with a larger one, bucket and index cost a smaller share.
    """
    pictures = crops(count)
    nowhere: Any = None
    indexer = open_indexer(nowhere, make_runtime("bench", ("image",), Settings()))
    memory: Any = Memory(pictures)
    without_traceback = replace(indexer, indexed_bucket=IndexedBucket(memory, Nothing(), "memory"))  # type: ignore[arg-type]
    _measure(without_traceback, 0, Samples())
    stored, in_memory = Samples(), Samples()
    with tempfile.TemporaryDirectory() as folder:
        bucket = open_bucket(Path(folder, "photos").as_uri(), externally_written=True)
        for name, data in pictures.items():
            bucket.create(name, data)
        for number in range(rounds):
            with opened_index(f"sqlite://{folder}/{number}.sqlite") as index:
                indexed_bucket = IndexedBucket(bucket, index, bucket.url)
                both = [
                    (replace(indexer, indexed_bucket=indexed_bucket), stored),
                    (without_traceback, in_memory),
                ]
                # Who comes first takes turns.
                for one, samples in both if number % 2 else reversed(both):
                    _measure(one, count, samples)
    share = in_memory.median / stored.median
    verdict = "OK   " if share >= LEAST else "SHORT"
    size = sum(map(len, pictures.values())) / count / 1000
    return "\n".join(
        [
            f"Backfill of {count:,} photos of {size:.0f} KB, the bundled model, median of {rounds}:",
            _line("files to SQLite", stored, count),
            _line("in memory with no index", in_memory, count),
            f"{verdict} backfill has {share:.0%} of that throughput (at least {LEAST:.0%})",
        ]
    )


def _measure(indexer: Indexer, count: int, samples: Samples) -> None:
    done = Report()
    started, before = time.perf_counter(), time.process_time()
    apply_changes(indexer, differences(indexer.indexed_bucket, indexer.fingerprint, done), done)
    samples.wall.append(time.perf_counter() - started)
    samples.cpu += time.process_time() - before
    assert not count or (done.embedded, done.failed.total()) == (count, 0), done


def _line(what: str, samples: Samples, count: int) -> str:
    milliseconds = samples.mean_cpu / count * 1000
    return f"  {what}: {count / samples.median:.0f} a second, {milliseconds:.2f} ms of CPU each"


@dataclass(frozen=True)
class Memory:
    """Photos in memory as a bucket, as much of one as a backfill needs."""

    pictures: Mapping[str, bytes]

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        for name in sorted(self.pictures):
            yield name, Stat(1, len(self.pictures[name]), "image/jpeg", 0.0)

    def read(self, name: str, **_: object) -> tuple[bytes, int]:
        return self.pictures[name], 1


class Nothing:
    """An index that keeps nothing."""

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        return [True] * len(entries)

    def generations(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        return iter(())
