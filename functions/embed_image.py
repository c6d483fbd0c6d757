"""HTTP function: pictures to vectors. POST `/embed/image` or `/`, as JSON, as a form or as raw bytes."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.app import make_app, serve
from clip_embeddings.startup import start

APP = start("embed_image", make_app)


@functions_framework.http
def embed_image(request: Request) -> Response:
    """Pictures in, one vector per picture out, in the same order; `[]` where a picture failed."""
    return serve(request, APP)
