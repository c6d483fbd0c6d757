"""Requests with and without the API key."""

from __future__ import annotations

from flask import Request

from clip_embeddings.api_key import KEY_HEADERS, has_key
from clip_embeddings.errors import ApiError


def carries_key(request: Request, api_key: str | None) -> bool:
    """Whether no key is set, or the request carries it. See `has_key`."""
    return has_key(lambda name: request.headers.get(name, ""), api_key)


def key_required() -> ApiError:
    """The error for a request without the key."""
    message = f"Send the API key as Authorization: Bearer KEY, or as the header {' or '.join(KEY_HEADERS)}."
    return ApiError(401, "api_key_required", message)
