"""Shares the CPUs out among runs of models, and lets waiting items run together.

A run takes one CPU thread, and as many runs go on as there are CPUs. Whoever finds a free CPU runs its own
items at once, in its own thread. Whoever has to wait is either woken when its turn comes, and then takes
others that wait for the same tower along in its run, or finds that another one has run its items. So batches
grow by themselves when the model is busy, no timer delays anybody, and nothing is added when it is idle.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
import numpy as np

from clip_embeddings.semaphore import OverloadedError


class Runnable(Protocol):
    """A tower, as the scheduler sees it."""

    @property
    def threads(self) -> int:
        """CPU threads of one run."""

    def may_run_together(self, items: Sequence[Any]) -> bool:
        """Whether `items` are few and similar enough for one run."""

    def run(self, items: Sequence[Any]) -> np.ndarray:
        """The vectors of `items`: (n, d) float32."""


class _Job(msgspec.Struct, eq=False):
    """Items of one request that run together."""

    tower: Runnable
    items: Sequence[Any]
    background: bool
    # Held while the job waits.
    turn: threading.Lock = msgspec.field(default_factory=threading.Lock)
    vectors: np.ndarray | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.vectors is not None or self.error is not None


def no_check() -> None:
    """Never ends the work."""


class Scheduler:
    """Runs items on at most `cpus` threads, in order of arrival, and lets at most `queue` requests wait."""

    def __init__(self, cpus: int, queue: int) -> None:
        self.cpus = cpus
        self._free = cpus
        self._queue = queue
        self._waiting: deque[_Job] = deque()
        # Requests that run or wait, those in the background not counted.
        self._requests = 0
        self._lock = threading.Lock()

    def idle_runs(self, tower: Runnable) -> int:
        """How many runs of `tower` could begin now without a wait."""
        return 0 if self._waiting else self._free // tower.threads

    def run(
        self,
        tower: Runnable,
        parts: Sequence[Sequence[Any]],
        *,
        background: bool = False,
        check: Callable[[], None] = no_check,
    ) -> np.ndarray:
        """The vectors of all items of a request, in their order: (n, d) float32.

        Args:
            parts: the items, at least one, in lists that each fit into one run. Several run at the same time.
            background: nobody waits for the result. The items may then wait in any number, and do not run
                together with those of requests, because the thread that runs them may have a low priority.
            check: called before each part; what it raises ends the work.

        Raises:
            OverloadedError: too many requests wait already. Never raised with `background`.
        """
        width = max(1, self.cpus // tower.threads)

        def run_part(items: Sequence[Any]) -> np.ndarray:
            check()
            return self._run_job(_Job(tower, items, background))

        with self._admission(width, background):
            if len(parts) == 1:
                return run_part(parts[0])
            if width == 1:
                return np.concatenate([run_part(part) for part in parts])
            # Threads of the request's own: they have the priority of the thread that starts them.
            with ThreadPoolExecutor(min(width, len(parts)), thread_name_prefix="run") as pool:
                futures = [pool.submit(run_part, part) for part in parts]
                try:
                    return np.concatenate([future.result() for future in futures])
                finally:
                    # After an error, the parts that have not begun are dropped.
                    pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _admission(self, width: int, background: bool) -> Iterator[None]:
        """Count a request, and refuse one that is too many: `width` run at once, and the queue waits."""
        if background:
            yield
            return
        with self._lock:
            if self._requests >= width + self._queue:
                raise OverloadedError
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1

    def _run_job(self, job: _Job) -> np.ndarray:
        with self._lock:
            must_wait = bool(self._waiting) or self._free < job.tower.threads
            if must_wait:
                job.turn.acquire()
                self._waiting.append(job)
            else:
                self._free -= job.tower.threads
        if must_wait:
            job.turn.acquire()
        if not job.done:
            self._lead(job)
        if job.error is not None:
            raise job.error
        assert job.vectors is not None
        return job.vectors

    def _lead(self, job: _Job) -> None:
        """Run `job`, which has its CPU threads, together with waiting ones that fit."""
        with self._lock:
            companions = self._take_companions(job)
        try:
            _run_together([job, *companions])
        finally:
            with self._lock:
                self._free += job.tower.threads
                while self._waiting and self._free >= self._waiting[0].tower.threads:
                    following = self._waiting.popleft()
                    self._free -= following.tower.threads
                    following.turn.release()
            for companion in companions:
                if not companion.done:
                    # Only after an interruption such as SystemExit, which is no Exception.
                    companion.error = RuntimeError("the run was interrupted")
                companion.turn.release()

    def _take_companions(self, job: _Job) -> list[_Job]:
        companions: list[_Job] = []
        items = list(job.items)
        for other in self._waiting:
            together = other.tower is job.tower and other.background == job.background
            if together and job.tower.may_run_together([*items, *other.items]):
                items += other.items
                companions.append(other)
        for companion in companions:
            self._waiting.remove(companion)
        return companions


def _run_together(jobs: Sequence[_Job]) -> None:
    """Run the items of all `jobs` at once. If that fails, each runs alone, so that only one fails."""
    tower = jobs[0].tower
    try:
        vectors = tower.run([item for job in jobs for item in job.items])
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:
            _run_together([job])
        return
    start = 0
    for job in jobs:
        job.vectors = vectors[start : start + len(job.items)]
        start += len(job.items)
