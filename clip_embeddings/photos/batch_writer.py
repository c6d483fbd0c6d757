"""Writes many changes to an index, in batches and in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from clip_embeddings.engine.model import IMAGE_ROWS
from clip_embeddings.index.types import Entry, LabelChange
from clip_embeddings.photos.indexer import Indexer
from clip_embeddings.photos.types import Deletion, Rejected, Report
from clip_embeddings.storage.types import TransientError

# Entries of one transaction. Bounds memory.
BATCH_SIZE = 4 * IMAGE_ROWS
# Deletions and rejections that wait to be written. Bounds memory.
MAX_PENDING = 3 * IMAGE_ROWS


class BatchWriter:
    """Writes in another thread, so that the model does not wait for the index. Counts outcomes in `report`.

    Every method may raise the StorageError of an earlier change. The end of the block writes the rest.
    """

    def __init__(
        self, indexer: Indexer, report: Report, on_rejected: Callable[[Rejected], None], *, keep: bool = False
    ) -> None:
        self._indexer = indexer
        self._report = report
        self._on_rejected = on_rejected
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._pending: deque[Future[None]] = deque()
        self._entries: list[Entry] = []

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(self, error_class: type[BaseException] | None, *_: object) -> None:
        try:
            # Also after an error elsewhere, so that photos that were embedded are not lost.
            self._submit_entries()
            self._wait(0)
        finally:
            self._pool.shutdown()

    def write(self, entries: Sequence[Entry]) -> None:
        """Add entries or replace older ones."""
        self._entries += entries
        if len(self._entries) >= BATCH_SIZE:
            self._submit_entries()
            self._wait(1)

    def set_labels(self, changes: Sequence[LabelChange]) -> None:
        """Replace the labels of entries, in one transaction."""
        self._pending.append(self._pool.submit(self._set_labels, changes))
        self._wait(1)

    def remove(self, deletion: Deletion) -> None:
        """Remove the entry of an object that no longer exists."""
        self._pending.append(self._pool.submit(self._remove, deletion))
        self._wait(MAX_PENDING)

    def reject(self, rejected: Rejected) -> None:
        """Count an object that cannot be embedded, and remove the entry of its older generations.

        With `keep`, it stays.
        """
        self._pending.append(self._pool.submit(self._reject, rejected))
        self._wait(MAX_PENDING)

    def count_unavailable(self, name: str) -> None:
        """Count an entry that the index cannot give now."""
        self._pending.append(self._pool.submit(self._report.count_rejected, name, "index_unavailable"))
        self._wait(MAX_PENDING)

    def _submit_entries(self) -> None:
        # Taken before they are submitted: an interrupt in between leaves a few photos to the next run, while
        # the other order would submit, and count, the same entries twice.
        entries, self._entries = self._entries, []
        if entries:
            self._pending.append(self._pool.submit(self._upsert, entries))

    def _wait(self, max_pending: int) -> None:
        while len(self._pending) > max_pending:
            self._pending.popleft().result()

    def _upsert(self, entries: Sequence[Entry]) -> None:
        try:
            written = self._indexer.indexed_bucket.index.upsert(entries)
        except TransientError:
            for entry in entries:
                self._report.count_rejected(entry.name, "index_unavailable")
            return
        for entry, was_written in zip(entries, written, strict=True):
            if was_written:
                self._report.embedded += 1
            else:
                self._report.count_rejected(entry.name, "superseded")

    def _set_labels(self, changes: Sequence[LabelChange]) -> None:
        try:
            written = self._indexer.indexed_bucket.index.set_labels(changes)
        except TransientError:
            for change in changes:
                self._report.count_rejected(change.name, "index_unavailable")
            return
        for change, was_written in zip(changes, written, strict=True):
            if was_written:
                self._report.tagged += 1
            else:
                self._report.count_rejected(change.name, "superseded")

    def _reject(self, rejected: Rejected) -> None:
        name, indexed_bucket = rejected.version.name, self._indexer.indexed_bucket
        try:
            # Only indexed objects get a tombstone: there may be very many objects that are not pictures.
            removable = not rejected.transient and not self._keep
            if removable and indexed_bucket.index.get(indexed_bucket.name, name):
                self._report.removed += self._indexer.tombstone_older(rejected)
        except TransientError:
            self._report.count_rejected(name, "index_unavailable")
        else:
            self._report.count_rejected(name, rejected.code)
            self._on_rejected(rejected)

    def _remove(self, deletion: Deletion) -> None:
        indexed_bucket = self._indexer.indexed_bucket
        try:
            self._report.removed += indexed_bucket.index.delete(
                indexed_bucket.name,
                deletion.name,
                deletion.generation,
                forget=indexed_bucket.generations_recur,
            )
        except TransientError:
            self._report.count_rejected(deletion.name, "index_unavailable")
