"""A Cloud Storage bucket, or the part of it below one prefix. Honors STORAGE_EMULATOR_HOST."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from clip_embeddings.config import CLOUD_STORAGE, missing_package
from clip_embeddings.lazy import Lazy
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES
from clip_embeddings.storage.types import (
    ALL_NAMES,
    BINARY,
    PAGE_SIZE,
    REQUEST_TIMEOUT,
    RETRY_TIMEOUT,
    BadNameError,
    NameRange,
    NotFoundError,
    Stat,
    StorageError,
    TooLargeError,
    TransientError,
)

# Connections that are kept, as many as FETCH_PARALLEL may be.
CONNECTIONS = 64

# Bytes that are requested at once of an object that is read as a stream.
STREAM_BYTES = 4 * 2**20

# Metadata key of a random value that identifies the call of `create` that wrote the object.
NONCE_KEY = "written-by"

# What a listing returns of each object, of about thirty fields.
STAT_FIELDS = "items(name,generation,size,contentType,updated,metadata),nextPageToken"
NAME_FIELDS = "items(name),nextPageToken"


class _PreconditionError(StorageError):
    """The object is not in the generation that the request requires."""


@dataclass(frozen=True)
class GcsBucket:
    """The objects of `bucket` whose names start with `prefix`, named without it. See Bucket."""

    bucket: str
    prefix: str = ""
    # Connections do not survive a fork, so the first call makes the client, in the process that serves.
    client: Lazy[Any] = field(default_factory=lambda: Lazy(_connect))

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}"

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        buffer = _BoundedBuffer(max_bytes)
        with self._blob(name, generation) as blob:
            blob.download_to_file(buffer, **_retry_options())
            if blob.generation is None:
                # Cloud Storage returns the generation with the bytes; the emulator does not.
                blob.reload(**_retry_options())
            return buffer.getvalue(), int(blob.generation)

    def open(self, name: str) -> BinaryIO:
        """A stream of the newest generation, which is read in parts of STREAM_BYTES.

        Raises:
            StorageError: the object cannot be read; also raised by the methods of the stream.
        """
        blob = self._reloaded(name)
        if blob is None:
            raise NotFoundError(f"There is no object {self.url}{name}.")
        return io.BufferedReader(_ObjectParts(blob), STREAM_BYTES)

    def stat(self, name: str) -> Stat | None:
        blob = self._reloaded(name)
        return None if blob is None else _stat(blob)

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        nonce = uuid.uuid4().hex
        try:
            with self._blob(name) as blob:
                blob.metadata = {NONCE_KEY: nonce}
                # Generation 0 means that no object of this name exists.
                blob.upload_from_string(data, content_type, if_generation_match=0, **_retry_options())
        except _PreconditionError:
            # The response to a request may be lost after the object was written. The retry then fails because
            # of that object, and the nonce shows that this call wrote it.
            existing = self._reloaded(name)
            return existing is not None and (existing.metadata or {}).get(NONCE_KEY) == nonce
        return True

    def delete(self, name: str) -> bool:
        try:
            with self._blob(name) as blob:
                blob.delete(**_retry_options())
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        for page in self.name_pages(prefix):
            yield from page

    def stats(self, prefix: str = "", within: NameRange = ALL_NAMES) -> Iterator[tuple[str, Stat]]:
        with _translate_errors():
            for blob in self._list(prefix, within, STAT_FIELDS, PAGE_SIZE):
                yield blob.name.removeprefix(self.prefix), _stat(blob)

    def name_pages(
        self, prefix: str = "", within: NameRange = ALL_NAMES, page_size: int = PAGE_SIZE
    ) -> Iterator[list[str]]:
        with _translate_errors():
            for page in self._list(prefix, within, NAME_FIELDS, page_size).pages:
                yield [blob.name.removeprefix(self.prefix) for blob in page]

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        yield True

    def cleanup(self) -> None:
        pass

    def _list(self, prefix: str, within: NameRange, fields: str, page_size: int) -> Any:
        return self.client.get().list_blobs(
            self.bucket,
            prefix=self.prefix + prefix,
            start_offset=self.prefix + within.start if within.start else None,
            end_offset=None if within.end is None else self.prefix + within.end,
            fields=fields,
            page_size=page_size,
            **_retry_options(),
        )

    @contextmanager
    def _blob(self, name: str, generation: int | None = None) -> Iterator[Any]:
        if not name or not _is_valid_name(self.prefix + name):
            raise BadNameError("No object can have this name.")
        with _translate_errors():
            yield self.client.get().bucket(self.bucket).blob(self.prefix + name, generation=generation)

    def _reloaded(self, name: str) -> Any | None:
        """The object with its properties; None if it does not exist."""
        try:
            with self._blob(name) as blob:
                blob.reload(**_retry_options())
        except NotFoundError:
            return None
        return blob


class _BoundedBuffer(io.BytesIO):
    """Memory to download into, up to a limit. Raises TooLargeError beyond it."""

    def __init__(self, max_bytes: int | None) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def write(self, data: Any, /) -> int:
        if self._max_bytes is not None and self.tell() + len(data) > self._max_bytes:
            raise TooLargeError(f"The object has more than {self._max_bytes:,} bytes.")
        return super().write(data)


class _ObjectParts(io.RawIOBase):
    """Reads any part of one generation of an object."""

    def __init__(self, blob: Any) -> None:
        super().__init__()
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: int(self._blob.size)}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._position + len(buffer), int(self._blob.size))
        if end <= self._position:
            return 0
        with _translate_errors():
            # The checksum is that of the whole object.
            data = self._blob.download_as_bytes(
                start=self._position,
                end=end - 1,
                if_generation_match=int(self._blob.generation),
                checksum=None,
                **_retry_options(),
            )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _stat(blob: Any) -> Stat:
    metadata = {key: value for key, value in (blob.metadata or {}).items() if key != NONCE_KEY}
    content_type = blob.content_type or BINARY
    return Stat(int(blob.generation), int(blob.size), content_type, blob.updated.timestamp(), metadata)


def _is_valid_name(name: str) -> bool:
    # https://cloud.google.com/storage/docs/objects#naming
    try:
        return len(name.encode()) <= MAX_OBJECT_NAME_BYTES and not {"\r", "\n"} & set(name)
    except UnicodeEncodeError:
        return False


def _connect() -> Any:
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
        from requests.adapters import HTTPAdapter
    except ImportError:
        raise StorageError(f"{missing_package('A gs:// bucket', CLOUD_STORAGE)}.") from None
    # By default, every 404 starts a thread that requests the bucket's metadata, for traces that are not used.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    try:
        client = storage.Client()
        session = client._http
        if not getattr(session, "is_mtls", False):
            # The default keeps ten connections, and makes one for each request beyond them.
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        return client
    except DefaultCredentialsError:
        raise StorageError(
            "There are no credentials for Cloud Storage here: run `gcloud auth application-default login`."
        ) from None


def _retry_options() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    # Every call may be retried: reads and deletes are idempotent, and `create` recognizes its own object.
    retry = DEFAULT_RETRY.with_timeout(RETRY_TIMEOUT).with_delay(initial=0.2, maximum=4.0, multiplier=2.0)
    return {"retry": retry, "timeout": REQUEST_TIMEOUT}


@contextmanager
def _translate_errors() -> Iterator[None]:
    # `from None`, because the package's exceptions carry the object's URL.
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

    name = type(error).__name__
    if isinstance(error, NotFound):
        return NotFoundError("There is no such object, or no such bucket.")
    if isinstance(error, PreconditionFailed):
        return _PreconditionError("The object is in another generation.")
    if isinstance(error, ClientError) and error.code not in (408, 429):
        return StorageError(f"Cloud Storage refused: {name} {error.code}.")
    if isinstance(error, GoogleAuthError) and not error.retryable:
        return StorageError(f"Cloud Storage does not take this process's credentials: {name}.")
    if isinstance(error, (GoogleAPIError, GoogleAuthError, RequestException, DataCorruption, OSError)):
        return TransientError(f"Cloud Storage did not answer well: {name}.")
    return error
