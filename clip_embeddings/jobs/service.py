"""The jobs of a deployment: where they are kept and, for a local folder, what runs them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_embeddings.config import CLOUD_STORAGE, need_package
from clip_embeddings.jobs.compute import compute
from clip_embeddings.jobs.runner import Compute, LocalRunner, handle_event
from clip_embeddings.jobs.store import JobOutput, JobStore
from clip_embeddings.logs import logger
from clip_embeddings.paths import ROOT
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.factory import open_bucket


@dataclass(frozen=True)
class Jobs:
    """The store of jobs, what computes one and, if they run in this process, their runner."""

    store: JobStore
    compute: Compute
    runner: LocalRunner | None = None

    def submit(self, record: dict[str, Any]) -> str:
        """Keep a record durably, to be computed; returns the job's id."""
        job = self.store.submit(record)
        if self.runner:
            self.runner.add(job)
        return job

    def start(self) -> None:
        """Resume unfinished jobs, if they run in this process. Repeated calls are cheap."""
        if self.runner:
            self.runner.start()

    def handle_event(self, data: object) -> None:
        """Run the job whose request was just written, from the data of the bucket's event.

        Raises:
            Exception: whatever computing or the bucket raises, ApiError aside. The event must be delivered
                again.
        """
        fields = data if isinstance(data, dict) else {}
        bucket, name = fields.get("bucket"), fields.get("name")
        if not isinstance(bucket, str) or not isinstance(name, str):
            logger.warning("run_job: an event without bucket and name was dropped.")
            return
        handle_event(bucket, name, self.store, self.compute)


def open_jobs(runtime: Runtime) -> Jobs:
    """The jobs of this deployment: those in a folder run in this process, those in Cloud Storage in
    `run_job`.

    Raises:
        ConfigError: JOBS_URL needs a package that is not installed.
    """
    settings = runtime.settings.jobs
    if (settings.url or "").startswith("gs:"):
        need_package("JOBS_URL", CLOUD_STORAGE)
    bucket = open_bucket(settings.url or default_url())
    store = JobStore(bucket, ttl=settings.ttl, deadline=settings.deadline)

    def work(record: dict[str, Any]) -> JobOutput:
        return compute(record, runtime)

    if not bucket.url.startswith("file:"):
        return Jobs(store, work)
    if runtime.settings.in_cloud:
        logger.warning(
            "JOBS_URL is a folder of this instance: jobs are lost with it. Use gs://bucket/prefix."
        )
    return Jobs(store, work, LocalRunner(store, work))


def default_url() -> str:
    """The URL of a temporary folder of this user and this copy of the package."""
    digest = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    return (Path(tempfile.gettempdir()) / f"clip-jobs-{os.getuid()}-{digest}").as_uri()
