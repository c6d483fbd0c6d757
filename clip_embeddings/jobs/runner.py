"""Runs jobs: on the events of a bucket in the cloud, in a background thread of the gateway elsewhere."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from clip_embeddings.background import BackgroundThread
from clip_embeddings.errors import ApiError
from clip_embeddings.jobs.store import JobOutput, JobStore, job_id_of, short_id
from clip_embeddings.logs import logger
from clip_embeddings.storage.types import NotFoundError

# From a job's request to what it makes. Raises ApiError if the request cannot be served.
Compute = Callable[[dict[str, Any]], JobOutput]


def run_job(job_id: str, store: JobStore, compute: Compute) -> bool:
    """Run an unfinished job; True if this call finished it, False if there was nothing to do.

    Raises:
        Exception: whatever `compute` and the bucket raise, except ApiError. The job stays unfinished and can
            be run again, until its attempts or its time are used up.
    """
    with store.try_lock(job_id) as locked:
        # Checked with the lock, because its previous holder may have finished the job.
        if not locked or not store.pending(job_id):
            return False
        if not store.record_attempt(job_id):
            message = f"The job was begun {store.attempts} times and never ended."
            return _log_end(job_id, "gave up", store.fail(job_id, "job_crashed", message))
        try:
            request = store.read_request(job_id)
        except NotFoundError:
            return False
        except ValueError:
            message = "The request is not a JSON object."
            finished = store.fail(job_id, "request_unreadable", message)
            return _log_end(job_id, "failed: request_unreadable", finished)
        try:
            output = compute(request)
        except ApiError as error:
            finished = store.fail(job_id, error.code, error.message)
            return _log_end(job_id, f"failed: {error.code}", finished)
        return _log_end(job_id, "complete", store.finish(job_id, output))


def _log_end(job_id: str, outcome: str, finished: bool) -> bool:
    """Log the end of a run; `finished` is whether this run, and no other, finished the job."""
    text = outcome if finished else f"was finished before this run ({outcome}) was"
    logger.info("job %s %s", short_id(job_id), text)
    return finished


def handle_event(bucket: str, name: str, store: JobStore, compute: Compute) -> bool:
    """Run the job whose request was just written to a Cloud Storage bucket, as `run_job` does.

    Every other object is ignored: runs write into the bucket as well, and so may other programs.
    """
    url = f"gs://{bucket}/{name}"
    base = store.bucket.url
    if not base.startswith(f"gs://{bucket}/"):
        # The object's name, which may hold a job's id, is not logged.
        other = quote(bucket[:100], errors="replace")
        logger.info(
            "run_job: an event was dropped: it is about the bucket %s; JOBS_URL names %s", other, base
        )
        return False
    job_id = job_id_of(url.removeprefix(base)) if url.startswith(base) else None
    return job_id is not None and run_job(job_id, store, compute)


class LocalRunner:
    """A background thread that runs the jobs of a store, one after the other, and sweeps expired ones.

    The store holds what is to be done; the queue in memory only orders it. So jobs that do not fit into the
    queue, that failed for a transient reason or that another process left are run at the next scan.
    """

    def __init__(
        self,
        store: JobStore,
        compute: Compute,
        *,
        scan_seconds: float = 15.0,
        sweep_seconds: float = 600.0,
        queue_size: int = 10_000,
    ) -> None:
        self._store = store
        self._compute = compute
        self._scan_seconds = scan_seconds
        self._sweep_seconds = sweep_seconds
        self._queue: queue.Queue[str | None] = queue.Queue(queue_size)
        self._thread = BackgroundThread("jobs", self._work, wake=self._wake, abandon=self._abandon)
        # The job that is being run.
        self._current: str | None = None

    def start(self) -> None:
        """Start with the unfinished jobs. Call it in the process that serves; repeated calls are cheap."""
        self._thread.start()

    def add(self, job_id: str) -> None:
        """Run a job that was just submitted, after those before it. Never waits."""
        self.start()
        with suppress(queue.Full):
            self._queue.put_nowait(job_id)

    def stop(self, timeout: float = 5.0) -> None:
        """Begin no other job, and wait at most `timeout` seconds for the present one.

        A job that is still running then ends with the process, and is run again by the next one. The run
        that was interrupted does not count as an attempt.
        """
        self._thread.stop(timeout)

    def _wake(self) -> None:
        with suppress(queue.Full):
            self._queue.put_nowait(None)

    def _abandon(self) -> None:
        job_id, self._current = self._current, None
        if job_id is not None:
            self._store.forget_attempt(job_id)

    def _work(self) -> None:
        next_sweep = 0.0
        while not self._thread.stopping.is_set():
            if time.monotonic() >= next_sweep:
                self._log_errors(self._store.sweep)
                next_sweep = time.monotonic() + self._sweep_seconds
            self._log_errors(self._run_unfinished)
            self._run_queued(time.monotonic() + self._scan_seconds)

    def _run_unfinished(self) -> None:
        for job_id in self._store.unfinished():
            self._run(job_id)

    def _run_queued(self, deadline: float) -> None:
        while (remaining := deadline - time.monotonic()) > 0 and not self._thread.stopping.is_set():
            try:
                job_id = self._queue.get(timeout=remaining)
            except queue.Empty:
                return
            # None wakes the thread up when it must stop.
            if job_id is not None:
                self._run(job_id)

    def _run(self, job_id: str) -> None:
        if not self._thread.stopping.is_set():
            self._current = job_id
            self._log_errors(lambda: run_job(job_id, self._store, self._compute))
            self._current = None

    def _log_errors(self, step: Callable[[], object]) -> None:
        # An error does not end the thread: the next scan may succeed.
        try:
            step()
        except Exception:
            logger.exception("a step of the job runner failed; it is tried again")
