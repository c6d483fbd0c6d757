"""HTTP function: texts to vectors. POST `/embed/text` or `/`, as JSON or as a form."""

import functions_framework
from flask import Request, Response

from clip_embeddings.startup import starting

with starting("embed_text") as runtime:
    from clip_embeddings.http.app import make_app, serve

    APP = make_app(runtime)


@functions_framework.http
def embed_text(request: Request) -> Response:
    """Texts in, one vector per text out, in the same order."""
    return serve(request, APP)
