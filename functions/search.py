"""HTTP function: a text or a picture to the nearest objects of the index, and a page for people."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.runtime import start
from clip_embeddings.search.routes import open_photos, search_routes

RUNTIME = start("search", towers=("text", "image"))
SERVICE = make_service(RUNTIME, conventions=(), routes=search_routes(open_photos(RUNTIME)), root="/search")


@functions_framework.http
def search(request: Request) -> Response:
    """What to look for in, what is nearest out."""
    return serve(request, SERVICE)
