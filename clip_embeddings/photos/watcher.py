"""Watches a local folder that is the bucket: indexes files that are added, drops those that are removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from clip_embeddings.background import BackgroundThread
from clip_embeddings.logs import logger
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.types import Change, ObjectVersion, Rejected, Report
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import StorageError

# Milliseconds. A burst of changes ends once none has followed for QUIET_MS, or BURST_MS after its first one.
QUIET_MS, BURST_MS = 50, 300
# Milliseconds after which the watching thread checks, without a change, whether it must stop or scan.
WAKE_MS = 200
# Nanoseconds for which a changed file is left alone. Its writer may not be done, and file timestamps are
# coarse, so a second change may not change the generation.
SETTLE_NS = 100_000_000
# Seconds between scans while the folder or the index cannot be used.
RETRY_SECONDS = 2.0
# Seconds between scans where watchfiles is not installed.
POLL_SECONDS = 2.0


class FolderWatcher:
    """A background thread that keeps the index in agreement with a folder.

    A change in the folder only triggers a scan, which compares everything. So changes that were not noticed,
    because no process was running or because there were too many, are handled as well.
    """

    def __init__(self, indexer: Indexer, folder: Path, *, scan_seconds: float = 60.0) -> None:
        self._indexer = indexer
        self._folder = folder
        self._scan_seconds = scan_seconds
        self._thread = BackgroundThread("photos", self._work)
        # Generations, by name, that cannot be embedded and are not tried again.
        self._rejected: dict[str, int] = {}
        # The time of the next scan, in seconds of time.monotonic.
        self._next_scan = 0.0
        # Why the last scan failed, if an operator must act. It is logged once.
        self._problem: str | None = None
        # The value of Index.replacements before the last scan.
        self._replacements = 0

    def start(self) -> None:
        """Start with a scan. Call it in the process that serves; repeated calls are cheap."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop after the photos that are being indexed; waits for them at most `timeout` seconds."""
        self._thread.stop(timeout)

    def _work(self) -> None:
        for changed in self._watch():
            if changed or time.monotonic() >= self._next_scan or self._index_was_replaced():
                self._next_scan = time.monotonic() + self._scan_seconds
                self._replacements = self._indexer.indexed_bucket.index.replacements()
                # An error does not end the thread: the next scan may succeed.
                try:
                    self._scan()
                    self._problem = None
                except StorageError as error:
                    self._next_scan = min(self._next_scan, time.monotonic() + RETRY_SECONDS)
                    if self._problem != str(error):
                        self._problem = str(error)
                        logger.error("photos: %s It is tried again until it succeeds.", error)
                except Exception:
                    logger.exception("the photos could not be brought up to date; it is tried again")

    def _index_was_replaced(self) -> bool:
        return self._indexer.indexed_bucket.index.replacements() != self._replacements

    def _watch(self) -> Iterator[bool]:
        """Yield repeatedly whether anything has changed. A change during a scan is reported after it."""
        try:
            from watchfiles import watch
        except ImportError:
            logger.warning("watchfiles is not installed: the folder is looked at every few seconds.")
            while not self._thread.stopping.wait(POLL_SECONDS):
                yield True
            return
        for changes in watch(
            self._folder,
            watch_filter=None,
            debounce=BURST_MS,
            step=QUIET_MS,
            rust_timeout=WAKE_MS,
            yield_on_timeout=True,
            stop_event=self._thread.stopping,
            raise_interrupt=False,
        ):
            yield bool(changes)

    def _scan(self) -> None:
        if not self._folder.is_dir():
            # The disk may not be mounted, which does not mean that its photos were removed.
            logger.warning("photos: the folder is not there; the index stays as it is until it is back")
            return
        report = Report()
        apply_changes(self._indexer, self._changes(report), report, self._remember_rejected)
        if report.embedded or report.tagged or report.removed or report.failed:
            fields = {"embedded": report.embedded, "removed": report.removed, "failed": report.failed.total()}
            if report.tagged:
                fields["tagged"] = report.tagged
            logger.info("photos", extra={"fields": fields})
        for code, names in report.examples.items():
            logger.warning(
                "photos: %s: %d, such as %s", code, report.failed[code], ", ".join(map(repr, names))
            )

    def _changes(self, report: Report) -> Iterator[Change]:
        indexed_bucket = self._indexer.indexed_bucket
        for change in differences(indexed_bucket, self._indexer.entry_version, report, indexed_bucket.prefix):
            if self._thread.stopping.is_set():
                return
            if not isinstance(change, ObjectVersion):
                yield change
            elif 0 <= time.time_ns() - change.stat.generation < SETTLE_NS:
                self._next_scan = time.monotonic() + SETTLE_NS / 1e9
            elif self._rejected.get(change.name) != change.stat.generation:
                yield change

    def _remember_rejected(self, rejected: Rejected) -> None:
        if not rejected.transient:
            self._rejected[rejected.version.name] = rejected.version.stat.generation


def open_watcher(runtime: Runtime) -> FolderWatcher | None:
    """The watcher of the deployment's folder; None if BUCKET_URL is not set or is in the cloud.

    None also if the model has no image tower, which is logged: texts are served all the same.

    Raises:
        ConfigError: the folder is missing.
    """
    if not (runtime.settings.photos.url or "").startswith("file:"):
        return None
    manifest = runtime.default_model().manifest
    if "image" not in manifest.towers:
        logger.warning("photos are off: the model %s has no image tower.", manifest.name)
        return None
    indexer = open_indexer(open_indexed_bucket(runtime.settings), runtime)
    bucket = indexer.indexed_bucket.bucket
    assert isinstance(bucket, FileBucket)
    return FolderWatcher(indexer, bucket.folder)
