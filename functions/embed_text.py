"""HTTP function: texts to vectors. POST `/embed/text` or `/`, as JSON or as a form."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.protocols import encoder, native, notebook
from clip_embeddings.runtime import start

SERVICE = make_service(
    runtime=start("embed_text", towers=("text",)),
    conventions=(native.TEXT, notebook.TEXT, encoder.TEXT),
    root="/embed/text",
)


@functions_framework.http
def embed_text(request: Request) -> Response:
    """Texts in, one vector per text out, in the same order."""
    return serve(request, SERVICE)
