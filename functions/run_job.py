"""CloudEvent function: runs the job whose request was just written to the jobs bucket."""

import functions_framework
from cloudevents.http import CloudEvent

from clip_embeddings.startup import starting
from clip_embeddings.storage.events import is_handled

with starting("run_job") as runtime:
    from clip_embeddings.jobs.service import open_jobs

    JOBS = open_jobs(runtime)


@functions_framework.cloud_event
def run_job(event: CloudEvent) -> None:
    """Compute and write the result, once. Raises where a retry may help: the platform delivers again."""
    if is_handled("run_job", event["type"]):
        JOBS.handle_event(event.data)
