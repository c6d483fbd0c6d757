"""The optional API key."""

from __future__ import annotations

import hmac

from flask import Request

from clip_embeddings.errors import ApiError

# The headers that clients send a key in, beside Authorization: ours, Google's and Azure's.
KEY_HEADERS = ("X-API-Key", "x-goog-api-key", "api-key")


def carries_key(request: Request, api_key: str | None) -> bool:
    """Whether no key is set, or one of the request's headers carries it.

    It may come as `Authorization: Bearer KEY` or in one of KEY_HEADERS. A header with something else, such as
    an identity token in `Authorization`, does not matter if another one carries the key.
    """
    if api_key is None:
        return True
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    candidates = [request.headers.get(name, "") for name in KEY_HEADERS]
    if scheme.lower() == "bearer":
        candidates.append(token.strip())
    # Constant-time comparisons, all of them.
    matches = [hmac.compare_digest(candidate.encode(), api_key.encode()) for candidate in candidates]
    return any(matches)


def key_required() -> ApiError:
    """The error for a request without the key."""
    message = f"Send the API key as Authorization: Bearer KEY, or as the header {' or '.join(KEY_HEADERS)}."
    return ApiError(401, "api_key_required", message)
