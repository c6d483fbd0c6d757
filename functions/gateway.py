"""HTTP function: every route of every convention in one process. What `make serve` runs."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.jobs.routes import job_routes, open_jobs
from clip_embeddings.photos.watcher import open_watcher
from clip_embeddings.protocols import encoder, native, notebook, photo_app
from clip_embeddings.runtime import exit_on_config_error, start
from clip_embeddings.search.routes import open_photos, search_routes

RUNTIME = start("gateway", towers=("text", "image"), allow_missing_towers=True)
JOBS = open_jobs(RUNTIME)
with exit_on_config_error("gateway"):
    WATCHER = open_watcher(RUNTIME)
SERVICE = make_service(
    RUNTIME,
    conventions=(
        native.TEXT,
        native.IMAGE,
        native.MIXED,
        native.RAW,
        notebook.TEXT,
        notebook.IMAGE,
        photo_app.UPLOAD,
        encoder.TEXT,
        encoder.IMAGE,
    ),
    routes=(*job_routes(JOBS), *search_routes(open_photos(RUNTIME))),
)


@functions_framework.http
def gateway(request: Request) -> Response:
    """Whatever the single functions answer, at the same paths."""
    # Here and not at import: threads do not survive the fork before serving.
    JOBS.start()
    if WATCHER:
        WATCHER.start()
    return serve(request, SERVICE)
