"""HTTP function: texts to vectors. POST `/embed/text` or `/`, as JSON or as a form."""

import functions_framework
from flask import Request, Response

from functions.protocols import encoder, native, notebook
from functions.runtime import start
from functions.service import make_service, serve

SERVICE = make_service(
    runtime=start("embed_text", towers=("text",)),
    conventions=(native.TEXT, notebook.TEXT, encoder.TEXT),
    root="/embed/text",
)


@functions_framework.http
def embed_text(request: Request) -> Response:
    """Texts in, one vector per text out, in the same order."""
    return serve(request, SERVICE)
