"""The connection to Firestore: its client, its retries, and its errors as those of `storage.types`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clip_embeddings.config import missing_package
from clip_embeddings.index.registry import FIRESTORE
from clip_embeddings.storage.types import REQUEST_TIMEOUT, RETRY_TIMEOUT, StorageError, TransientError


def connect(project: str) -> Any:
    """A client of the project's default database.

    Raises:
        StorageError: the package or the credentials are missing.
    """
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import firestore
    except ImportError:
        raise StorageError(f"{missing_package('A firestore:// index', FIRESTORE)}.") from None
    try:
        return firestore.Client(project=project)
    except DefaultCredentialsError:
        raise StorageError("There are no credentials for Firestore here.") from None


def retry_options() -> dict[str, Any]:
    """The keyword arguments `retry` and `timeout` of every call."""
    from google.api_core.exceptions import DeadlineExceeded, InternalServerError, ServiceUnavailable
    from google.api_core.retry import Retry, if_exception_type

    # By default the package retries a query for five minutes.
    is_transient = if_exception_type(DeadlineExceeded, InternalServerError, ServiceUnavailable)
    retry = Retry(is_transient, initial=0.1, maximum=2.0, multiplier=2.0, timeout=RETRY_TIMEOUT)
    return {"retry": retry, "timeout": REQUEST_TIMEOUT}


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the package's exceptions as StorageError or TransientError."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise translate(error) from error


def translate(error: Exception) -> Exception:
    """The StorageError for an exception of the package; any other exception unchanged."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    name = type(error).__name__
    if isinstance(error, exceptions.FailedPrecondition):
        return StorageError("Firestore lacks an index that this query needs, or is not in native mode.")
    transient = (
        exceptions.ServerError,
        exceptions.Aborted,
        exceptions.TooManyRequests,
        exceptions.RetryError,
    )
    if isinstance(error, transient) or (isinstance(error, GoogleAuthError) and error.retryable):
        return TransientError(f"Firestore did not answer well: {name}.")
    if isinstance(error, (exceptions.GoogleAPIError, GoogleAuthError)):
        return StorageError(f"Firestore refused: {name}.")
    return error
