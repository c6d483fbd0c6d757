"""HTTP function: every route of every protocol in one process. What `make serve` runs."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.app import App, make_app, serve
from clip_embeddings.jobs.routes import job_routes
from clip_embeddings.jobs.service import open_jobs
from clip_embeddings.photos.watcher import open_watcher
from clip_embeddings.runtime import Runtime
from clip_embeddings.search.routes import search_routes
from clip_embeddings.search.searcher import open_searcher
from clip_embeddings.startup import start


def build(runtime: Runtime) -> App:
    """Jobs, search and, for a local folder, the watcher that keeps its photos indexed."""
    jobs, watcher = open_jobs(runtime), open_watcher(runtime)
    routes = (*job_routes(jobs), *search_routes(open_searcher(runtime)))
    return make_app(runtime, routes, workers=[jobs, watcher] if watcher else [jobs])


APP = start("gateway", build)


@functions_framework.http
def gateway(request: Request) -> Response:
    """Answer whatever the single functions answer, at the same paths."""
    return serve(request, APP)
