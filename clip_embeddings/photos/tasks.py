"""Which names a task of a backfill compares: the share of this process among the tasks of its execution."""

from __future__ import annotations

import time
from dataclasses import dataclass

from clip_embeddings.config import Settings, TaskSettings
from clip_embeddings.errors import ConfigError
from clip_embeddings.logs import LOG_SECONDS, logger
from clip_embeddings.photos.counting import PARALLEL, count_names
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.plans import PlanStore
from clip_embeddings.photos.shares import Plan
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import ALL_NAMES, NameRange


@dataclass(frozen=True)
class Share:
    """The names of one task."""

    within: NameRange = ALL_NAMES
    # If not None, only the names of `within` that a hash assigns to this task.
    hashed: TaskSettings | None = None


@dataclass(frozen=True)
class Tasks:
    """The tasks that share the names of a bucket that start with `prefix`. This process is one of them."""

    indexed_bucket: IndexedBucket
    prefix: str
    task: TaskSettings
    # None: no plan is made.
    plans: PlanStore | None

    def share(self) -> Share:
        """The names of this task. Waits for the plan, or makes it.

        Raises:
            StorageError: the bucket of photos cannot be listed, or that of plans cannot be used.
        """
        task = self.task
        if task.count == 1:
            return Share()
        if self.plans is None or task.execution is None:
            logger.warning(
                "backfill: PLAN_URL is not set, so each of the %d tasks lists all names", task.count
            )
            return Share(hashed=task)
        plan = self.plans.agree(task.execution, task, self._count)
        share = plan.share(task)
        logger.info(
            "backfill: task %d of %d: %s of %s names, from %r to %r",
            *(task.index, task.count, f"{plan.size(task):,}", f"{plan.names:,}", share.start, share.end),
        )
        return Share(share)

    def prepare(self) -> str:
        """Make a plan for the executions to come; returns a sentence about it. Only the first task does.

        Raises:
            StorageError: as `share` does.
        """
        assert self.plans is not None
        if self.task.index:
            return "the first task makes the plan; this one has nothing to do"
        plan = self._count()
        self.plans.prepare(plan)
        return f"planned {plan.names:,} names; the tasks of the next executions share them by this plan"

    def _count(self) -> Plan:
        bucket, started, last_logged = self.indexed_bucket.bucket, time.monotonic(), time.monotonic()

        def log(names: int) -> None:
            nonlocal last_logged
            if time.monotonic() - last_logged > LOG_SECONDS:
                last_logged = time.monotonic()
                logger.info("backfill: counted %s names so far", f"{names:,}")

        # Whatever lists a folder reads all of its folders, so several at once do it several times.
        parallel = 1 if isinstance(bucket, FileBucket) else PARALLEL
        plan = count_names(bucket, self.indexed_bucket.name, self.prefix, parallel=parallel, on_progress=log)
        seconds = time.monotonic() - started
        logger.info("backfill: counted %s names in %.0f seconds", f"{plan.names:,}", seconds)
        return plan


def open_tasks(
    indexed_bucket: IndexedBucket, prefix: str, settings: Settings, *, plan: bool = False
) -> Tasks:
    """The tasks of this deployment. Connects to nothing.

    Args:
        plan: whether a plan is to be prepared.

    Raises:
        ConfigError: PLAN_URL or the name of the execution is needed and not set.
    """
    url, task = settings.photos.plan_url, settings.task
    if url is None:
        if plan:
            raise ConfigError(
                "--plan needs PLAN_URL, where the plan is kept: use file:///folder or gs://bucket/prefix."
            )
        return Tasks(indexed_bucket, prefix, task, None)
    if task.count > 1 and task.execution is None and not plan:
        raise ConfigError(
            "CLOUD_RUN_EXECUTION is not set: PLAN_URL needs a name that all tasks of one run share, and no "
            "other run has."
        )
    place = open_bucket(url)
    if place.url.startswith(indexed_bucket.bucket.url):
        raise ConfigError(
            "PLAN_URL is in the bucket of photos, whose objects are indexed: use another bucket."
        )
    return Tasks(indexed_bucket, prefix, task, PlanStore(place, indexed_bucket.name, prefix))
