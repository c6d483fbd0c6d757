"""HTTP function: takes jobs, answers polls, lists models and tasks. `run_job` does the work in the cloud."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.jobs.routes import job_routes, open_jobs
from clip_embeddings.runtime import start

RUNTIME = start("jobs", towers=("text", "image"), allow_missing_towers=True)
JOBS = open_jobs(RUNTIME)
SERVICE = make_service(RUNTIME, conventions=(), routes=job_routes(JOBS))


@functions_framework.http
def jobs(request: Request) -> Response:
    """Submit a job, poll it, read its result as often as you like until it expires."""
    # Here and not at import: threads do not survive the fork before serving.
    JOBS.start()
    return serve(request, SERVICE)
