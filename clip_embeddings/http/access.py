"""Who may call: an optional API key, and the origins whose pages may read replies (CORS)."""

from __future__ import annotations

import hmac

from flask import Request, Response

from clip_embeddings.errors import ApiError

# What our clients send beside what browsers always allow: https://fetch.spec.whatwg.org/#http-cors-protocol
ALLOWED_HEADERS = "Content-Type, Authorization, X-API-Key"
EXPOSED_HEADERS = "Server-Timing, Retry-After"
# Seconds a browser may keep a preflight's answer; Chromium keeps none for longer.
PREFLIGHT_AGE = "7200"


def check_key(request: Request, api_key: str | None) -> None:
    """Raise CallerError 401 unless no key is set or the request carries it.

    It may come as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
    """
    if api_key is None:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")
    # As long for a near miss as for a wild guess.
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise ApiError(
            401, "api_key_required", "Send the API key as Authorization: Bearer KEY or X-API-Key: KEY."
        )


def is_preflight(request: Request) -> bool:
    """Whether a browser asks if it may send what it is about to send. Such a request carries no key."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight(methods: str, origins: frozenset[str], request: Request) -> Response:
    """The answer to a preflight: for an origin that is not allowed, it allows nothing."""
    response = Response(status=204)
    allow_origin(response, origins, request.headers.get("Origin", ""))
    if "Access-Control-Allow-Origin" in response.headers:
        response.headers["Access-Control-Allow-Methods"] = methods
        response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = PREFLIGHT_AGE
    return response


def allow_origin(response: Response, origins: frozenset[str], origin: str) -> None:
    """Let a page of `origin` read `response` if it is one of `origins`, or `*` is."""
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
