"""The search page: one document that contains its style and script, and a policy that allows only these."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path

from flask import Request, Response

FOLDER = Path(__file__).parent
# The parts of the script, in their order; together they are one function.
SCRIPTS = (
    *("core", "server", "address", "images", "collection", "filters"),
    *("grid", "search", "viewer", "pictures", "map", "duplicates", "keys", "main"),
)


def search_page(request: Request, notice: str | None = None) -> Response:
    """The page. It contains no data: its script requests the results, with the API key if one is needed.

    Args:
        notice: a sentence to show, whatever is searched.
    """
    # A browser may paint before the script has run: it must not begin with what the address does not mean.
    document, policy = _document(notice, is_start=request.path.endswith("/") and not request.args)
    response = Response(document, mimetype="text/html")
    response.headers["Content-Security-Policy"] = policy
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(hashlib.sha256(document).hexdigest()[:16])
    response.make_conditional(request)
    return response


@cache
def _document(notice: str | None, *, is_start: bool) -> tuple[bytes, str]:
    """The document, and the Content-Security-Policy that names its parts by their hashes."""
    style = (FOLDER / "search.css").read_bytes()
    parts = b"\n".join((FOLDER / f"{name}.js").read_bytes() for name in SCRIPTS)
    script = b'"use strict";\n(() => {\n%b})();\n' % parts
    document = (FOLDER / "search.html").read_bytes()
    if not is_start:
        document = document.replace(b'<body class="start">', b"<body>")
    document = document.replace(b"<style></style>", b"<style>%b</style>" % style)
    if notice:
        document = document.replace(b"<main>", b'<main><p class="notice">%b</p>' % escape(notice).encode(), 1)
    document = document.replace(b"<script></script>", b"<script>%b</script>" % script)
    policy = (
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        # A dropped picture is shown as a data URI, a thumbnail that was fetched with the key as a blob.
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        # The browser refuses script that turns text into HTML: https://www.w3.org/TR/trusted-types/
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return document, "; ".join(policy)


def _hash(part: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'"
