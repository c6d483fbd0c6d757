"""Makes many changes to an index. Reading and decoding, the model, and writing run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clip_embeddings.ahead import map_ahead
from clip_embeddings.engine.model import IMAGE_ROWS
from clip_embeddings.photos.batch_writer import BatchWriter
from clip_embeddings.photos.indexer import Indexer
from clip_embeddings.photos.types import Change, DecodedPhoto, Deletion, Rejected, Report
from clip_embeddings.storage.types import TransientError

# Photos that are read and decoded in advance of the model. Bounds memory.
MAX_LOADED = 3 * IMAGE_ROWS


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
        for loaded in _load_all(indexer, changes):
            if isinstance(loaded, DecodedPhoto):
                batch.append(loaded)
            elif isinstance(loaded, Deletion):
                writer.remove(loaded)
            else:
                writer.reject(loaded)
            if len(batch) == IMAGE_ROWS:
                writer.write(indexer.embed(batch))
                batch = []
        if batch:
            writer.write(indexer.embed(batch))


def _load_all(indexer: Indexer, changes: Iterable[Change]) -> Iterator[DecodedPhoto | Rejected | Deletion]:
    def load(change: Change) -> DecodedPhoto | Rejected | Deletion:
        if isinstance(change, Deletion):
            return change
        try:
            return indexer.load(change)
        except TransientError as error:
            return Rejected(change, "storage_unavailable", str(error), transient=True)

    threads = indexer.runtime.settings.fetch.parallel
    return map_ahead(load, changes, threads=threads, ahead=MAX_LOADED, name="photos")
