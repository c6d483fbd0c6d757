"""Makes many changes to an index. Reading and decoding, the model, and writing run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clip_embeddings.ahead import map_ahead
from clip_embeddings.engine.model import IMAGE_ROWS
from clip_embeddings.index.types import Entry
from clip_embeddings.photos.batch_writer import BatchWriter
from clip_embeddings.photos.indexer import Indexer
from clip_embeddings.photos.types import Change, DecodedPhoto, Deletion, Rejected, Report, Retag
from clip_embeddings.storage.types import TransientError

# Photos that are read and decoded in advance of the model. Bounds memory.
MAX_LOADED = 3 * IMAGE_ROWS
# Entries that are tagged at once, and in one transaction.
TAG_ROWS = 128

# What a change becomes before vectors are computed or labels chosen. An entry is to be tagged; a Retag could
# not be read; None: there is nothing to change any more.
Loaded = DecodedPhoto | Rejected | Deletion | Entry | Retag | None


def apply_changes(
    indexer: Indexer,
    changes: Iterable[Change],
    report: Report,
    on_rejected: Callable[[Rejected], None] = lambda _: None,
    *,
    keep: bool = False,
) -> None:
    """Make many changes to the index.

    Memory holds `MAX_LOADED` decoded photos, the bytes of those being read, and the vectors of two
    transactions.

    Args:
        report: outcomes are counted in it while this runs, also by the thread that writes.
        on_rejected: called by that thread for each object that cannot be embedded.
        keep: whether the entry of an earlier generation stays if the present one cannot be embedded.

    Raises:
        StorageError: an operator must act. Changes that failed for a transient reason are counted as failed.
    """
    with BatchWriter(indexer, report, on_rejected, keep=keep) as writer:
        batch: list[DecodedPhoto] = []
        stored: list[Entry] = []
        for loaded in _load_all(indexer, changes):
            if isinstance(loaded, DecodedPhoto):
                batch.append(loaded)
            elif isinstance(loaded, Deletion):
                writer.remove(loaded)
            elif isinstance(loaded, Rejected):
                writer.reject(loaded)
            elif isinstance(loaded, Retag):
                writer.count_unavailable(loaded.name)
            elif loaded:
                stored.append(loaded)
            if len(batch) == IMAGE_ROWS:
                writer.write(indexer.embed(batch))
                batch = []
            if len(stored) == TAG_ROWS:
                writer.set_labels(indexer.tag(stored))
                stored = []
        if batch:
            writer.write(indexer.embed(batch))
        if stored:
            writer.set_labels(indexer.tag(stored))


def _load_all(indexer: Indexer, changes: Iterable[Change]) -> Iterator[Loaded]:
    def load(change: Change) -> Loaded:
        if isinstance(change, Deletion):
            return change
        if isinstance(change, Retag):
            try:
                return indexer.stored(change)
            except TransientError:
                return change
        try:
            return indexer.load(change)
        except TransientError as error:
            return Rejected(change, "storage_unavailable", str(error), transient=True)

    threads = indexer.runtime.settings.fetch.parallel
    return map_ahead(load, changes, threads=threads, ahead=MAX_LOADED, name="photos")
