"""The optional API key."""

from __future__ import annotations

import hmac

from flask import Request

from clip_embeddings.errors import ApiError


def check_key(request: Request, api_key: str | None) -> None:
    """Raise ApiError 401 unless no key is set or the request carries it.

    It may come as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.
    """
    if api_key is None:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")
    # Constant-time comparison.
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise ApiError(
            401, "api_key_required", "Send the API key as Authorization: Bearer KEY or X-API-Key: KEY."
        )
