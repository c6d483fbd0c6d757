"""HTTP function: takes jobs, answers polls, lists models and tasks. `run_job` does the work in the cloud."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.app import make_app, serve
from clip_embeddings.jobs.routes import job_routes
from clip_embeddings.jobs.service import open_jobs
from clip_embeddings.startup import starting

with starting("jobs") as runtime:
    # What runs the jobs where they are kept in a folder.
    JOBS = open_jobs(runtime)
    APP = make_app(runtime, job_routes(JOBS), workers=[JOBS])


@functions_framework.http
def jobs(request: Request) -> Response:
    """Submit a job, poll it, read its result as often as you like until it expires."""
    return serve(request, APP)
