"""A backfill of the objects that files name, in the place of a listing: `--manifest`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from clip_embeddings.config import TaskSettings
from clip_embeddings.index.types import Entry, IndexedVersion
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.manifest_file import read_names
from clip_embeddings.photos.reconcile import compare
from clip_embeddings.photos.types import OUTSIDE, Change, Report
from clip_embeddings.storage.types import Stat, TransientError

# Objects that are looked up in advance, for each thread. Bounds memory.
AHEAD = 4


@dataclass(frozen=True)
class LookUp:
    """What bucket and index hold of one name."""

    name: str
    stat: Stat | None = None
    entry: Entry | None = None
    # The code of an error that another attempt may not have.
    failed: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Files that name objects of `indexed_bucket`, of which those count whose names start with `prefix`."""

    indexed_bucket: IndexedBucket
    prefix: str
    # See read_names.
    sources: Sequence[str]
    task: TaskSettings

    def changes(self, fingerprint: str, report: Report, parallel: int) -> Iterator[Change]:
        """The changes after which the index has an entry with this fingerprint for each object that is named.

        What the bucket holds now counts, not what a file says of it. Nothing is removed. An object that is
        named twice may be embedded twice.

        Args:
            report: objects that need no change, or that are gone, are counted in it.
            parallel: objects that are looked up at once.

        Raises:
            StorageError: a file cannot be read or understood, or the bucket or the index cannot be used.
        """
        with ThreadPoolExecutor(parallel, thread_name_prefix="look-up") as pool:
            pending: deque[Future[LookUp]] = deque()
            try:
                for name in self._names(report):
                    pending.append(pool.submit(self._look_up, name))
                    if len(pending) >= AHEAD * parallel:
                        yield from self._compare(pending.popleft().result(), fingerprint, report)
                while pending:
                    yield from self._compare(pending.popleft().result(), fingerprint, report)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _names(self, report: Report) -> Iterator[str]:
        for source in self.sources:
            for name in read_names(source, self.indexed_bucket.name, self.task):
                if name.startswith(self.prefix):
                    yield name
                else:
                    report.skipped[OUTSIDE] += 1

    def _look_up(self, name: str) -> LookUp:
        try:
            stat = self.indexed_bucket.bucket.stat(name)
        except TransientError:
            return LookUp(name, failed="storage_unavailable")
        try:
            entry = self.indexed_bucket.index.get(self.indexed_bucket.name, name) if stat else None
        except TransientError:
            return LookUp(name, failed="index_unavailable")
        return LookUp(name, stat, entry)

    def _compare(self, looked_up: LookUp, fingerprint: str, report: Report) -> Iterator[Change]:
        entry = looked_up.entry
        if looked_up.failed or looked_up.stat is None:
            report.count_rejected(looked_up.name, looked_up.failed or "object_gone")
            return
        indexed = (
            IndexedVersion(looked_up.name, entry.generation, entry.fingerprint, entry.label_set)
            if entry
            else None
        )
        yield from compare(looked_up.name, looked_up.stat, indexed, self.indexed_bucket, fingerprint, report)
