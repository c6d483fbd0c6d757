"""What the caller did wrong, as one exception with a status, a stable code and a sentence."""

from __future__ import annotations


class ApiError(Exception):
    """The request, or one item of it, cannot be served as sent.

    Raised while a request is read, it becomes the whole reply. Raised for one item of a batch, it
    becomes that item's entry in `errors` and the others are answered.

    Args:
        status: HTTP status: 400-499; 500 or 503 where the reply to a fault of ours is made.
        code: snake_case name that clients may switch on; never changes once released.
        message: one sentence for a person. Never holds a resolved address, a local path or a secret.
        retry_after: seconds, sent as `Retry-After` (with status 429).
        where: place in a JSON body that is wrong, as a path like `$.texts[3]`.
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
        """The same without its traceback, which holds the item that failed for as long as the error lives."""
        return ApiError(self.status, self.code, self.message, retry_after=self.retry_after, where=self.where)
