"""Backfill of a folder into SQLite, compared with the same pipeline over bytes in memory and no index."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_embeddings.config import Settings
from clip_embeddings.index.types import Entry, IndexedVersion
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.types import Report
from clip_embeddings.runtime import make_runtime
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import ALL_NAMES, NameRange, Stat
from tests.bench.measure import Samples
from tests.support.indexes import opened_index
from tests.support.photographs import crops

# Least acceptable share of the throughput in memory.
MIN_SHARE = 0.9


def report(*, quick: bool) -> str:
    """Embed photos in both ways by turns, so that a drift of the machine affects both alike.

    This uses the bundled model, which is small. With a larger one, bucket and index cost a smaller share.
    """
    count, rounds = (200, 3) if quick else (1_000, 5)
    pictures = crops(count)
    no_bucket: Any = None
    indexer = open_indexer(no_bucket, make_runtime("bench", ("image",), Settings()))
    memory: Any = MemoryBucket(pictures)
    in_memory_indexer = replace(indexer, indexed_bucket=IndexedBucket(memory, NullIndex(), "memory"))  # type: ignore[arg-type]
    _measure(in_memory_indexer, 0, Samples())
    on_disk, in_memory = Samples(), Samples()
    with tempfile.TemporaryDirectory() as folder:
        bucket = open_bucket(Path(folder, "photos").as_uri(), externally_written=True)
        for name, data in pictures.items():
            bucket.create(name, data)
        for number in range(rounds):
            with opened_index(f"sqlite://{folder}/{number}.sqlite") as index:
                indexed_bucket = IndexedBucket(bucket, index, bucket.url)
                pairs = [
                    (replace(indexer, indexed_bucket=indexed_bucket), on_disk),
                    (in_memory_indexer, in_memory),
                ]
                # The order alternates between rounds.
                for measured_indexer, samples in pairs if number % 2 else reversed(pairs):
                    _measure(measured_indexer, count, samples)
    share = in_memory.median / on_disk.median
    verdict = "OK   " if share >= MIN_SHARE else "SHORT"
    size = sum(map(len, pictures.values())) / count / 1000
    return "\n".join(
        [
            f"Backfill of {count:,} photos of {size:.0f} KB, the bundled model, median of {rounds}:",
            _line("files to SQLite", on_disk, count),
            _line("in memory with no index", in_memory, count),
            f"{verdict} backfill has {share:.0%} of that throughput (at least {MIN_SHARE:.0%})",
        ]
    )


def _measure(indexer: Indexer, count: int, samples: Samples) -> None:
    totals = Report()
    started, before = time.perf_counter(), time.process_time()
    apply_changes(indexer, differences(indexer.indexed_bucket, indexer.fingerprint, totals), totals)
    samples.wall.append(time.perf_counter() - started)
    samples.cpu += time.process_time() - before
    assert not count or (totals.embedded, totals.failed.total()) == (count, 0), totals


def _line(label: str, samples: Samples, count: int) -> str:
    milliseconds = samples.mean_cpu / count * 1000
    return f"  {label}: {count / samples.median:.0f} a second, {milliseconds:.2f} ms of CPU each"


@dataclass(frozen=True)
class MemoryBucket:
    """A bucket of photos in memory, with the methods that a backfill calls."""

    pictures: Mapping[str, bytes]

    def stats(self, prefix: str = "", within: NameRange = ALL_NAMES) -> Iterator[tuple[str, Stat]]:
        for name in sorted(self.pictures):
            yield name, Stat(1, len(self.pictures[name]), "image/jpeg", 0.0)

    def read(self, name: str, **_: object) -> tuple[bytes, int]:
        return self.pictures[name], 1


class NullIndex:
    """An index that stores nothing."""

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        return [True] * len(entries)

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[IndexedVersion]:
        return iter(())
