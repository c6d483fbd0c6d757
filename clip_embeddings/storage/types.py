"""Buckets: named objects in a local folder or in Cloud Storage, behind one small Protocol.

Messages of these exceptions name no object: the name of a job's object holds the job's id, which is a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

JSON = "application/json"
BINARY = "application/octet-stream"

# Seconds to wait for one response of Cloud Storage or Firestore.
REQUEST_TIMEOUT = 10.0
# Seconds for one call with all its retries. Job clients give up after 20.
RETRY_TIMEOUT = 15.0


class StorageError(Exception):
    """The operation failed, and will fail again until an operator changes something."""


class TransientError(StorageError):
    """The operation failed, but may succeed later. A write that raised this may still have been completed."""


class NotFoundError(StorageError):
    """The object does not exist, or not in the requested generation."""


class BadNameError(NotFoundError):
    """No object of this bucket can have this name. For readers it is the same as a missing object."""


class TooLargeError(StorageError):
    """The object has more bytes than the reader accepts."""


class Stat(msgspec.Struct, frozen=True):
    """The properties of an object, available without reading it."""

    # Changes whenever the content does. In Cloud Storage it always grows; in a folder a value can recur.
    generation: int
    # In bytes.
    size: int
    # As the writer declared it; not verified.
    content_type: str
    # Seconds since the epoch, by the store's clock.
    updated: float
    # The writer's own key-value pairs.
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)


class NameRange(msgspec.Struct, frozen=True):
    """The names from `start` to before `end`, in the order of their UTF-8 bytes, which is that of Python."""

    start: str = ""
    # None: there is no last name.
    end: str | None = None

    def __contains__(self, name: str) -> bool:
        return self.start <= name and (self.end is None or name < self.end)

    @property
    def is_empty(self) -> bool:
        """Whether no name is in it."""
        return self.end is not None and self.end <= self.start


ALL_NAMES = NameRange()

# The most names that Cloud Storage returns at once.
# https://cloud.google.com/storage/docs/json_api/v1/objects/list
PAGE_SIZE = 1000


class Bucket(Protocol):
    """Objects by name. An object is written whole or not at all; threads and processes may share a bucket.

    Every method may raise TransientError (try again later) and StorageError (an operator must act).
    """

    @property
    def url(self) -> str:
        """The bucket's URL, ending with a slash. An object's URL is this followed by the object's name."""

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        """The bytes of an object and their generation: the newest, or the requested one.

        Raises:
            NotFoundError: the object does not exist, or is no longer in `generation`.
            TooLargeError: it has more than `max_bytes`. Memory never holds much more than that.
        """

    def stat(self, name: str) -> Stat | None:
        """The properties of the newest generation; None if the object does not exist."""

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        """Write a new object durably and return True; return False if the name is taken.

        If several callers create one name at once, exactly one of them gets True. Raises BadNameError.
        """

    def delete(self, name: str) -> bool:
        """Remove an object; False if it did not exist."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names that start with `prefix`, in no particular order."""

    def stats(self, prefix: str = "", within: NameRange = ALL_NAMES) -> Iterator[tuple[str, Stat]]:
        """The names that start with `prefix`, in the order of their bytes, with the newest generations.

        Args:
            within: only these names. What is outside of it is not listed, and costs nothing.
        """

    def name_pages(
        self, prefix: str = "", within: NameRange = ALL_NAMES, page_size: int = PAGE_SIZE
    ) -> Iterator[list[str]]:
        """The names of `stats`, in lists of at most `page_size`. A list is read when it is asked for."""

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Try to lock an object for the block; yields whether the caller holds the lock.

        The lock of a process that dies is released. It only saves duplicate work: a store without locks
        yields True to every caller.
        """

    def cleanup(self) -> None:
        """Remove the temporary files that writers left when they died."""
