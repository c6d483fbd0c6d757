"""HTTP function: a text or a picture to the nearest objects of the index, and a page for people."""

import functions_framework
from flask import Request, Response

from clip_embeddings.startup import starting

with starting("search") as runtime:
    from clip_embeddings.http.app import make_app, serve
    from clip_embeddings.search.routes import search_routes
    from clip_embeddings.search.searcher import open_searcher

    APP = make_app(runtime, search_routes(open_searcher(runtime)))


@functions_framework.http
def search(request: Request) -> Response:
    """A query in, the nearest objects out."""
    return serve(request, APP)
