"""HTTP function: every route of every protocol in one process. What `make serve` runs."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.app import make_app, serve
from clip_embeddings.jobs.routes import job_routes
from clip_embeddings.jobs.service import open_jobs
from clip_embeddings.photos.watcher import open_watcher
from clip_embeddings.search.routes import search_routes
from clip_embeddings.search.searcher import open_searcher
from clip_embeddings.startup import starting

with starting("gateway") as runtime:
    # For a local folder, the watcher keeps its photos indexed.
    JOBS, WATCHER = open_jobs(runtime), open_watcher(runtime)
    ROUTES = (*job_routes(JOBS), *search_routes(open_searcher(runtime)))
    APP = make_app(runtime, ROUTES, workers=[JOBS, WATCHER] if WATCHER else [JOBS])


@functions_framework.http
def gateway(request: Request) -> Response:
    """Answer whatever the single functions answer, at the same paths."""
    return serve(request, APP)
