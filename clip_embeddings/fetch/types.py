"""Types and errors that every module of this package shares."""

from __future__ import annotations

import time
from dataclasses import dataclass

from clip_embeddings.errors import ApiError

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Deadline:
    """The time by which a fetch must end: `moment` is in seconds of time.monotonic()."""

    moment: float

    def seconds_left(self) -> float:
        """Seconds until the deadline, always above 0.

        Raises:
            TimeoutError: the deadline has passed.
        """
        seconds = self.moment - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


@dataclass(frozen=True)
class Target:
    """A URL that passed the policy, with the one IP address to connect to."""

    scheme: str
    host: str
    port: int
    # Path and query string.
    path: str
    address: str
    # The settings allow this host to have a private address.
    private: bool


def invalid_url(reason: str) -> ApiError:
    """400 `url_invalid`: the URL has a form that is not accepted."""
    return ApiError(400, "url_invalid", f"The image URL is not valid: {reason}.")


def forbidden_url(reason: str) -> ApiError:
    """400 `url_forbidden`: the URL leads to an address or a port that is not allowed."""
    return ApiError(400, "url_forbidden", f"The image URL is not allowed: {reason}.")


def fetch_failed(reason: str) -> ApiError:
    """422 `fetch_failed`: the server, its name server or the connection failed."""
    return ApiError(422, "fetch_failed", f"The image could not be fetched: {reason}.")
