"""CloudEvent function: runs the job whose request was just written to the jobs bucket."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.jobs.routes import compute, open_jobs
from clip_embeddings.jobs.runner import handle_event
from clip_embeddings.logs import logger
from clip_embeddings.runtime import start

RUNTIME = start("run_job", towers=("text", "image"), allow_missing_towers=True)
JOBS = open_jobs(RUNTIME)


@functions_framework.cloud_event
def run_job(event: CloudEvent) -> None:
    """Compute and write the result, once. Raises where a retry may help: the platform delivers again."""
    data = event.data if isinstance(event.data, dict) else {}
    bucket, name = data.get("bucket"), data.get("name")
    if not isinstance(bucket, str) or not isinstance(name, str):
        logger.warning("run_job: an event without bucket and name was dropped.")
        return
    handle_event(bucket, name, JOBS.store, lambda record: compute(record, RUNTIME))
