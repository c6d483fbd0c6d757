"""Cross-origin requests: which pages may read replies, and the answer to a browser's preflight."""

from __future__ import annotations

import re

from flask import Request, Response

from clip_embeddings.api_key import KEY_HEADERS
from clip_embeddings.http import provenance

# Sent by clients, beside the headers that browsers always allow: https://fetch.spec.whatwg.org/#http-cors-protocol
ALLOWED_HEADERS = ("Content-Type", "Authorization", *KEY_HEADERS)
# Headers that OpenAI's clients add; there are many, and new ones with every version.
ALLOWED_PREFIX = "x-stainless-"
EXPOSED_HEADERS = ", ".join(("Server-Timing", "Retry-After", provenance.ERROR_CODE, *provenance.HEADERS))
# Seconds for which a browser may cache the answer to a preflight; Chromium's maximum.
PREFLIGHT_AGE = "7200"


def is_preflight(request: Request) -> bool:
    """Whether a browser asks which methods and headers a page may use. Such a request carries no key."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight(methods: str, origins: frozenset[str], request: Request) -> Response:
    """The answer to a preflight. For an origin that is not in `origins` it allows nothing."""
    response = Response(status=204)
    allow_origin(response, origins, request.headers.get("Origin", ""))
    if "Access-Control-Allow-Origin" in response.headers:
        response.headers["Access-Control-Allow-Methods"] = methods
        response.headers["Access-Control-Allow-Headers"] = ", ".join(_allowed_headers(request))
        response.headers["Access-Control-Max-Age"] = PREFLIGHT_AGE
    return response


def _allowed_headers(request: Request) -> list[str]:
    requested = request.headers.get("Access-Control-Request-Headers", "").lower().split(",")
    names = (name.strip() for name in requested)
    return [
        *ALLOWED_HEADERS,
        *(name for name in names if re.fullmatch(rf"{ALLOWED_PREFIX}[a-z0-9-]{{1,40}}", name)),
    ]


def allow_origin(response: Response, origins: frozenset[str], origin: str) -> None:
    """Let a page of `origin` read `response` if `origins` contains it, or `*`."""
    if not origins:
        return
    if "*" in origins:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        # Caches must not serve one origin's answer to another.
        response.vary.add("Origin")
        if origin not in origins:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
