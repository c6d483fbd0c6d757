"""HTTP function: texts and pictures to vectors of one space. POST `/embed/mixed` or `/`, as JSON."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.app import make_app, serve
from clip_embeddings.startup import start

APP = start("embed_mixed", make_app)


@functions_framework.http
def embed_mixed(request: Request) -> Response:
    """Texts and pictures in, a list of vectors for each out, in the same order."""
    return serve(request, APP)
