"""HTTP function: texts and pictures to vectors of one space. POST `/embed/mixed` or `/`, as JSON."""

import functions_framework
from flask import Request, Response

from clip_embeddings.http.service import make_service, serve
from clip_embeddings.protocols import native
from clip_embeddings.runtime import start

SERVICE = make_service(
    runtime=start("embed_mixed", towers=("text", "image")),
    conventions=(native.MIXED,),
    root="/embed/mixed",
)


@functions_framework.http
def embed_mixed(request: Request) -> Response:
    """Texts and pictures in, a list of vectors for each out, in the same order."""
    return serve(request, SERVICE)
