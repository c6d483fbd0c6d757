"""The exception behind every error reply: an HTTP status, a stable code and a sentence."""

from __future__ import annotations


class ApiError(Exception):
    """The request, or one item of it, cannot be served.

    Raised while a request is read, it becomes the whole reply. Raised for one item of a batch, it becomes
    that item's entry in `errors`, and the other items are embedded.

    Args:
        status: HTTP status: 400-499 for errors of the caller, 500 or 503 for errors of the service.
        code: snake_case name that clients may compare with; never changes once released.
        message: one sentence for a person, without resolved addresses, local paths or secrets.
        retry_after: seconds until the client should try again, sent as `Retry-After`; None if the same
            request would fail again.
        where: the invalid place in a JSON body, as a path like `$.texts[3]`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.where = where

    def without_traceback(self) -> ApiError:
        """A copy without the traceback, which would keep the failed item in memory as long as the error."""
        return self.with_status(self.status)

    def with_status(self, status: int) -> ApiError:
        """A copy with another HTTP status, and without the traceback."""
        return ApiError(status, self.code, self.message, retry_after=self.retry_after, where=self.where)


class ConfigError(Exception):
    """A setting is wrong. The process stops at start-up with this sentence."""
