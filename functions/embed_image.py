"""HTTP function: pictures to vectors. POST `/embed/image` or `/`, as JSON, as a form or as raw bytes."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.protocols import encoder, native, notebook, photo_app
from clip_embeddings.runtime import start

SERVICE = make_service(
    runtime=start("embed_image", towers=("image",)),
    conventions=(native.IMAGE, notebook.IMAGE, native.RAW, photo_app.UPLOAD, encoder.IMAGE),
    root="/embed/image",
)


@functions_framework.http
def embed_image(request: Request) -> Response:
    """Pictures in, one vector per picture out, in the same order; `[]` where a picture failed."""
    return serve(request, SERVICE)
