"""HTTP function: pictures to vectors. POST `/embed/image` or `/`, as JSON, as a form or as raw bytes."""

import functions_framework
from flask import Request, Response

from clip_embeddings.startup import starting

with starting("embed_image") as runtime:
    from clip_embeddings.http.app import make_app, serve

    APP = make_app(runtime)


@functions_framework.http
def embed_image(request: Request) -> Response:
    """Pictures in, one vector per picture out, in the same order; `[]` where a picture failed."""
    return serve(request, APP)
