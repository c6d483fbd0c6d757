"""The optional API key: which headers carry it."""

from __future__ import annotations

import hmac
from collections.abc import Callable

# The headers that clients send a key in, beside Authorization: ours, Google's and Azure's.
KEY_HEADERS = ("X-API-Key", "x-goog-api-key", "api-key")


def has_key(header: Callable[[str], str], api_key: str | None) -> bool:
    """Whether no key is set, or one of a request's headers carries it.

    It may come as `Authorization: Bearer KEY` or in one of KEY_HEADERS. A header with something else, such as
    an identity token in `Authorization`, does not matter if another one carries the key.

    Args:
        header: the value of the header of that name, in any case; empty if there is none.
    """
    if api_key is None:
        return True
    scheme, _, token = header("Authorization").partition(" ")
    candidates = [header(name) for name in KEY_HEADERS]
    if scheme.lower() == "bearer":
        candidates.append(token.strip())
    # Constant-time comparisons, all of them.
    matches = [hmac.compare_digest(candidate.encode(), api_key.encode()) for candidate in candidates]
    return any(matches)
