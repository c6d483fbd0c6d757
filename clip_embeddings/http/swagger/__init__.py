"""Swagger UI at /docs: what a browser gets there if DOCS_PAGE asks for it.

Its script and style are those of the package flask-swagger-ui, served from here: the page loads nothing from
any other host. Swagger UI: https://swagger.io/docs/open-source-tools/swagger-ui/usage/configuration/.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from flask import Request, Response

from clip_embeddings.config import SWAGGER_UI, need_package
from clip_embeddings.http.routing import RequestContext, Route

FOLDER = Path(__file__).parent
# The files of the page beside the page itself, and which of them come with the package.
MEDIA = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
PACKAGED = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # Swagger UI writes style attributes.
        "style-src 'self'",
        # Its style has pictures as data URIs; replies that are pictures are shown as blobs.
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def swagger_page(request: Request) -> Response:
    """The page. It holds no data: its script requests the document, with the API key if one is needed."""
    if request.path.endswith("/"):
        # The addresses in the page are relative, because a proxy may serve this below a prefix.
        return Response(status=308, headers={"Location": "../docs"})
    response = _file(request, FOLDER / "page.html", "text/html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def swagger_routes() -> tuple[Route, ...]:
    """The routes of the page's files. Raises ConfigError if the package is missing."""
    need_package("DOCS_PAGE", SWAGGER_UI)
    return tuple(_file_route(name, media) for name, media in MEDIA.items())


def _file_route(name: str, media: str) -> Route:
    def file(context: RequestContext) -> Response:
        folder = _packaged_folder() if name in PACKAGED else FOLDER
        return _file(context.request, folder / name, media)

    return Route(
        "GET",
        f"/docs/{name}",
        f"docs_{re.sub('[^a-z]', '_', name)}",
        "A part of the page at /docs",
        file,
        {"type": "string"},
        reply_media=media,
        tag="status",
        # A browser sends no key for them, and they hold no data.
        public=True,
    )


@cache
def _packaged_folder() -> Path:
    """Where the package has its files; found without importing it."""
    spec = find_spec(SWAGGER_UI.module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "dist"


def _file(request: Request, path: Path, media: str) -> Response:
    data = path.read_bytes()
    response = Response(data, mimetype=media)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(data).hexdigest()[:16])
    response.make_conditional(request)
    return response
