"""Exceptions to replies: one table from the exception's class to what the caller learns."""

from __future__ import annotations

from collections.abc import Callable

from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.errors import ApiError
from clip_embeddings.logs import logger
from clip_embeddings.semaphore import OverloadedError
from clip_embeddings.storage.types import StorageError, TransientError


def to_api_error(error: Exception, subject: str) -> ApiError:
    """The error that the caller is told. What an operator must see is logged, with `subject` in front.

    The most specific class of `error` that is in the table decides.
    """
    for cls in type(error).__mro__:
        if handler := _HANDLERS.get(cls):
            return handler(error, subject)
    raise AssertionError("the table covers Exception")


def _api_error(error: Exception, subject: str) -> ApiError:
    assert isinstance(error, ApiError)
    return error


def _overloaded(error: Exception, subject: str) -> ApiError:
    message = "Too many requests wait for the model; try again in a second."
    return ApiError(429, "overloaded", message, retry_after=1)


def _storage_unavailable(error: Exception, subject: str) -> ApiError:
    message = "The storage does not answer now; try again in a few seconds."
    return ApiError(503, "storage_unavailable", message, retry_after=5)


def _storage_failed(error: Exception, subject: str) -> ApiError:
    # An operator must act: the exception's message says how.
    logger.error("%s failed: %s", subject, error)
    return ApiError(
        500, "storage_failed", "The storage of this deployment cannot be used; the log has the reason."
    )


def _model_unavailable(error: Exception, subject: str) -> ApiError:
    # An operator must act: the exception's message says how.
    logger.error("%s failed: %s", subject, error)
    message = "The model of this deployment cannot be used; the log has the reason."
    return ApiError(503, "model_unavailable", message)


def _internal(error: Exception, subject: str) -> ApiError:
    # Details are for the log only; the caller gets status 500.
    logger.error("%s failed", subject, exc_info=error)
    return ApiError(500, "internal", "Something went wrong here; the log has the details.")


_HANDLERS: dict[type, Callable[[Exception, str], ApiError]] = {
    ApiError: _api_error,
    OverloadedError: _overloaded,
    TransientError: _storage_unavailable,
    StorageError: _storage_failed,
    ModelError: _model_unavailable,
    Exception: _internal,
}
