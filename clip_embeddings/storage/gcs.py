"""A Cloud Storage bucket, or what is below one prefix of it. STORAGE_EMULATOR_HOST is honoured."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clip_embeddings.lazy import Lazy
from clip_embeddings.storage.types import (
    BINARY,
    BadNameError,
    ChangedError,
    NotFoundError,
    Stat,
    StorageError,
    TooLargeError,
    TransientError,
)

# Seconds for one answer of the service, and for all tries of one call. Job clients give up after 20.
TIMEOUT = 10.0
TRIES = 15.0

# The object's own metadata say which call wrote it: see `write`.
NONCE = "written-by"


@dataclass(frozen=True)
class GcsBucket:
    """The objects of `bucket` whose names start with `prefix`, which is taken off. See Bucket."""

    bucket: str
    prefix: str = ""
    # Made by the first call, which must be in the process that serves: connections do not survive a fork.
    client: Lazy[Any] = field(default_factory=lambda: Lazy(_connect))

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}"

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        into = _Bounded(max_bytes)
        with self._blob(name, generation) as blob:
            blob.download_to_file(into, **_retry_options())
            if blob.generation is None:
                # Cloud Storage says it with the bytes; the emulator does not.
                blob.reload(**_retry_options())
            return into.getvalue(), int(blob.generation)

    def stat(self, name: str) -> Stat | None:
        try:
            with self._blob(name) as blob:
                blob.reload(**_retry_options())
        except NotFoundError:
            return None
        return _stat(blob)

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        try:
            self.write(name, data, content_type, if_generation=0)
        except ChangedError:
            return False
        return True

    def write(
        self, name: str, data: bytes, content_type: str = BINARY, *, if_generation: int | None = None
    ) -> int:
        nonce = uuid.uuid4().hex
        try:
            with self._blob(name) as blob:
                blob.metadata = {NONCE: nonce}
                blob.upload_from_string(
                    data, content_type, if_generation_match=if_generation, **_retry_options()
                )
        except ChangedError:
            # The answer to a try may be lost though the object was written: the next try is refused because
            # of it. The nonce tells our own object from somebody else's.
            if (written := self._written_by(name, nonce)) is None:
                raise
            return written
        return int(blob.generation)

    def delete(self, name: str, *, if_generation: int | None = None) -> bool:
        try:
            with self._blob(name) as blob:
                blob.delete(if_generation_match=if_generation, **_retry_options())
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        for name, _ in self.stats(prefix):
            yield name

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        with _translate_errors():
            client = self.client.get()
            for blob in client.list_blobs(self.bucket, prefix=self.prefix + prefix, **_retry_options()):
                yield blob.name.removeprefix(self.prefix), _stat(blob)

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        yield True

    def cleanup(self) -> None:
        pass

    @contextmanager
    def _blob(self, name: str, generation: int | None = None) -> Iterator[Any]:
        if not name or not _valid(self.prefix + name):
            raise BadNameError("No object can have this name.")
        with _translate_errors():
            yield self.client.get().bucket(self.bucket).blob(self.prefix + name, generation=generation)

    def _written_by(self, name: str, nonce: str) -> int | None:
        try:
            with self._blob(name) as blob:
                blob.reload(**_retry_options())
        except NotFoundError:
            return None
        return int(blob.generation) if (blob.metadata or {}).get(NONCE) == nonce else None


class _Bounded(io.BytesIO):
    """Memory to download into, up to a limit. Raises TooLargeError beyond it."""

    def __init__(self, max_bytes: int | None) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def write(self, data: Any, /) -> int:
        if self._max_bytes is not None and self.tell() + len(data) > self._max_bytes:
            raise TooLargeError(f"The object has more than {self._max_bytes:,} bytes.")
        return super().write(data)


def _stat(blob: Any) -> Stat:
    metadata = {key: value for key, value in (blob.metadata or {}).items() if key != NONCE}
    content_type = blob.content_type or BINARY
    return Stat(int(blob.generation), int(blob.size), content_type, blob.updated.timestamp(), metadata)


def _valid(name: str) -> bool:
    # https://cloud.google.com/storage/docs/objects#naming
    try:
        return len(name.encode()) <= 1024 and not {"\r", "\n"} & set(name)
    except UnicodeEncodeError:
        return False


def _connect() -> Any:
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError:
        raise StorageError(
            "A gs:// bucket needs the package google-cloud-storage, which is not installed: "
            "pip install -r requirements/cloud-storage.txt."
        ) from None
    # Else every "no such object" makes a thread that asks for the bucket itself, for traces nobody takes.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    try:
        return storage.Client()
    except DefaultCredentialsError:
        raise StorageError("There are no credentials for Cloud Storage here.") from None


def _retry_options() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    # Every call here may be tried again: reads and deletes change nothing twice, `write` knows its own.
    retry = DEFAULT_RETRY.with_timeout(TRIES).with_delay(initial=0.2, maximum=4.0, multiplier=2.0)
    return {"retry": retry, "timeout": TIMEOUT}


@contextmanager
def _translate_errors() -> Iterator[None]:
    # `from None`: the package's exceptions carry the object's URL.
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise _translate(error) from None


def _translate(error: Exception) -> Exception:
    from google.api_core.exceptions import ClientError, GoogleAPIError, NotFound, PreconditionFailed
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption
    from requests import RequestException

    kind = type(error).__name__
    if isinstance(error, NotFound):
        return NotFoundError("There is no such object, or no such bucket.")
    if isinstance(error, PreconditionFailed):
        return ChangedError("The object is in another generation.")
    if isinstance(error, ClientError) and error.code not in (408, 429):
        return StorageError(f"Cloud Storage refused: {kind} {error.code}.")
    if isinstance(error, GoogleAuthError) and not error.retryable:
        return StorageError(f"Cloud Storage does not take this process's credentials: {kind}.")
    if isinstance(error, (GoogleAPIError, GoogleAuthError, RequestException, DataCorruption, OSError)):
        return TransientError(f"Cloud Storage did not answer well: {kind}.")
    return error
