"""HTTP function: texts and pictures to vectors of one space. POST `/embed/mixed` or `/`, as JSON."""

import functions_framework
from flask import Request, Response

from clip_embeddings.startup import starting

with starting("embed_mixed") as runtime:
    from clip_embeddings.http.app import make_app, serve

    APP = make_app(runtime)


@functions_framework.http
def embed_mixed(request: Request) -> Response:
    """Texts and pictures in, a list of vectors for each out, in the same order."""
    return serve(request, APP)
