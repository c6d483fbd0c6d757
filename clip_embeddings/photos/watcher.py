"""A local folder as the bucket: what people drop in is embedded, what they remove leaves the index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from clip_embeddings.background import BackgroundThread
from clip_embeddings.logs import logger
from clip_embeddings.photos.collection import open_indexed_bucket
from clip_embeddings.photos.indexer import (
    Change,
    Indexer,
    ObjectVersion,
    Rejected,
    Report,
    apply,
    open_indexer,
)
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.file import FileBucket

# Milliseconds: no further change for the first, or the second since the first change, ends a burst of them.
QUIET, BURST = 50, 300
# How often the watching thread wakes up to see whether there is something else to do.
WAKE = 200
# Nanoseconds for which a changed file is left alone: its writer may not be done, and the system's clock for
# files ticks so slowly that a further change could go unseen.
SETTLE = 100_000_000


class PhotoFolder:
    """A background thread that keeps the index in agreement with a folder.

    A change in the folder only says when to look: a look compares everything. So changes that were not
    seen, while nobody watched or because they were too many, are found too.
    """

    def __init__(self, indexer: Indexer, folder: Path, *, look_seconds: float = 60.0) -> None:
        self._indexer = indexer
        self._folder = folder
        self._look_seconds = look_seconds
        self._thread = BackgroundThread("photos", self._work)
        # Generations by name that are no pictures: not worth another try.
        self._refused: dict[str, int] = {}
        self._next_look = 0.0

    def start(self) -> None:
        """Begin with a look. Call it in the process that serves; repeated calls are cheap."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Begin with no other photo, and wait for the present ones, but no longer than `timeout` seconds."""
        self._thread.stop(timeout)

    def _work(self) -> None:
        for changed in self._watch():
            if changed or time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + self._look_seconds
                # Nothing ends the thread: what went wrong may go right at the next look.
                try:
                    self._look()
                except Exception:
                    logger.exception("the photos could not be brought up to date; it is tried again")

    def _watch(self) -> Iterator[bool]:
        """Again and again whether anything has changed. What changes during a look counts for the next."""
        try:
            from watchfiles import watch
        except ImportError:
            logger.warning("watchfiles is not installed: the folder is looked at every few seconds.")
            while not self._thread.stopping.wait(2.0):
                yield True
            return
        for changes in watch(
            self._folder,
            watch_filter=None,
            debounce=BURST,
            step=QUIET,
            rust_timeout=WAKE,
            yield_on_timeout=True,
            stop_event=self._thread.stopping,
            raise_interrupt=False,
        ):
            yield bool(changes)

    def _look(self) -> None:
        if not self._folder.is_dir():
            # A disk that is not mounted has lost no photos.
            logger.warning("photos: the folder is not there; the index stays as it is until it is back")
            return
        report = Report()
        apply(self._indexer, self._changes(report), report, self._refuse)
        if report.embedded or report.removed or report.failed:
            fields = {"embedded": report.embedded, "removed": report.removed, "failed": report.failed.total()}
            logger.info("photos", extra={"fields": fields})
        for code, names in report.examples.items():
            logger.warning(
                "photos: %s: %d, such as %s", code, report.failed[code], ", ".join(map(repr, names))
            )

    def _changes(self, report: Report) -> Iterator[Change]:
        collection = self._indexer.collection
        for change in differences(collection, self._indexer.fingerprint, report, collection.prefix):
            if self._thread.stopping.is_set():
                return
            if not isinstance(change, ObjectVersion):
                yield change
            elif 0 <= time.time_ns() - change.stat.generation < SETTLE:
                self._next_look = time.monotonic() + SETTLE / 1e9
            elif self._refused.get(change.name) != change.stat.generation:
                yield change

    def _refuse(self, refused: Rejected) -> None:
        if not refused.transient:
            self._refused[refused.photo.name] = refused.photo.stat.generation


def open_folder(runtime: Runtime) -> PhotoFolder | None:
    """What keeps the photos of a local folder indexed; None if the bucket is none, or in the cloud.

    Raises:
        ConfigError: the deployment's model takes no pictures.
    """
    if not (runtime.settings.photos.url or "").startswith("file:"):
        return None
    indexer = open_indexer(open_indexed_bucket(runtime.settings), runtime)
    bucket = indexer.collection.bucket
    assert isinstance(bucket, FileBucket)
    return PhotoFolder(indexer, bucket.folder)
