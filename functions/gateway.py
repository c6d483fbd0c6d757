"""HTTP function: every route of every convention in one process. What `make serve` runs."""

import functions_framework
from flask import Request, Response

from functions.protocols import native, notebook
from functions.runtime import start
from functions.service import Service, serve

SERVICE = Service(
    runtime=start("gateway", towers=("text", "image")),
    conventions=(native.TEXT, native.IMAGE, native.MIXED, native.RAW, notebook.TEXT, notebook.IMAGE),
)


@functions_framework.http
def gateway(request: Request) -> Response:
    """Whatever the single functions answer, at the same paths."""
    return serve(request, SERVICE)
