"""HTTP function: a text or a picture to the nearest objects of the index, and a page for people."""

import functions_framework
from flask import Request, Response

from functions.runtime import start
from functions.search_routes import open_photos, search_routes
from functions.service import make_service, serve

RUNTIME = start("search", towers=("text", "image"))
SERVICE = make_service(RUNTIME, conventions=(), routes=search_routes(open_photos(RUNTIME)), root="/search")


@functions_framework.http
def search(request: Request) -> Response:
    """What to look for in, what is nearest out."""
    return serve(request, SERVICE)
