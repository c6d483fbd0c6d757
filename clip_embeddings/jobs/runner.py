"""Runs jobs: on a bucket's event in the cloud, in a background thread of the gateway elsewhere."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clip_embeddings.background import BackgroundThread
from clip_embeddings.errors import ApiError
from clip_embeddings.jobs.store import JobStore, job_of, short
from clip_embeddings.logs import logger
from clip_embeddings.storage.types import NotFoundError

# From a job's request to the `result` of its reply. Raises CallerError if the request cannot be served.
Compute = Callable[[dict[str, Any]], object]


def run_job(job: str, store: JobStore, compute: Compute) -> bool:
    """Run a job that is not finished yet; True if this call finished it, False if there was nothing to do.

    Raises:
        Exception: whatever `compute` and the bucket raise, CallerError aside. The job is still there to be
            run again, until its attempts or its time are used up.
    """
    with store.try_lock(job) as held:
        # Asked under the hold: who had it before may have finished the job.
        if not held or not store.pending(job):
            return False
        if not store.attempt(job):
            message = f"The job was begun {store.attempts} times and never ended."
            return _ended(job, "gave up", store.fail(job, "job_crashed", message))
        try:
            request = store.request(job)
        except NotFoundError:
            return False
        except ValueError:
            message = "The request is not a JSON object."
            return _ended(job, "failed: request_unreadable", store.fail(job, "request_unreadable", message))
        try:
            result = compute(request)
        except ApiError as error:
            return _ended(job, f"failed: {error.code}", store.fail(job, error.code, error.message))
        return _ended(job, "complete", store.finish(job, result))


def _ended(job: str, how: str, ours: bool) -> bool:
    logger.info("job %s %s", short(job), how if ours else f"was finished before this run ({how}) was")
    return ours


def handle_event(bucket: str, name: str, store: JobStore, compute: Compute) -> bool:
    """Run the job whose request was just written to a Cloud Storage bucket, as `run_job` does.

    Every other object is ignored: the runs themselves write into the bucket, and others may.
    """
    url = f"gs://{bucket}/{name}"
    base = store.bucket.url
    job = job_of(url.removeprefix(base)) if url.startswith(base) else None
    return job is not None and run_job(job, store, compute)


class LocalRunner:
    """A background thread that runs the jobs of a store, one after the other, and sweeps expired ones.

    What is to be done is in the store; the queue in memory only says where to look first. So jobs that do
    not fit in the queue, that failed for a passing reason or that another process left are found by the
    next look.
    """

    def __init__(
        self,
        store: JobStore,
        compute: Compute,
        *,
        look_seconds: float = 15.0,
        sweep_seconds: float = 600.0,
        queue_size: int = 10_000,
    ) -> None:
        self._store = store
        self._compute = compute
        self._look_seconds = look_seconds
        self._sweep_seconds = sweep_seconds
        self._queue: queue.Queue[str | None] = queue.Queue(queue_size)
        self._thread = BackgroundThread("jobs", self._work)

    def start(self) -> None:
        """Begin with the unfinished jobs. Call it in the process that serves; repeated calls are cheap."""
        self._thread.start()

    def add(self, job: str) -> None:
        """Run a job that was just submitted, after those before it. Never waits."""
        self.start()
        with suppress(queue.Full):
            self._queue.put_nowait(job)

    def stop(self, timeout: float = 5.0) -> None:
        """Begin no other job, and wait for the present one, but no longer than `timeout` seconds.

        A job that is still under way then ends with the process, and is run again by the next one.
        """
        self._thread.stopping.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.stop(timeout)

    def _work(self) -> None:
        next_sweep = 0.0
        while not self._thread.stopping.is_set():
            if time.monotonic() >= next_sweep:
                self._guard(self._store.sweep)
                next_sweep = time.monotonic() + self._sweep_seconds
            self._guard(self._look)
            self._follow_queue(time.monotonic() + self._look_seconds)

    def _look(self) -> None:
        for job in self._store.unfinished():
            self._run(job)

    def _follow_queue(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0 and not self._thread.stopping.is_set():
            try:
                job = self._queue.get(timeout=left)
            except queue.Empty:
                return
            # None only wakes the thread up, to stop.
            if job is not None:
                self._run(job)

    def _run(self, job: str) -> None:
        if not self._thread.stopping.is_set():
            self._guard(lambda: run_job(job, self._store, self._compute))

    def _guard(self, step: Callable[[], object]) -> None:
        # Nothing ends the thread: what went wrong may go right at the next look.
        try:
            step()
        except Exception:
            logger.exception("a step of the job runner failed; it is tried again")
