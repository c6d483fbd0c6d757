"""Buckets: named objects in a local folder or in Cloud Storage, behind one small Protocol.

Messages of these exceptions name no object: the name of a job's object holds the job's id, which is a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

JSON = "application/json"
BINARY = "application/octet-stream"


class StorageError(Exception):
    """The bucket cannot do this, and will not be able to without a change by a person."""


class TransientError(StorageError):
    """The bucket cannot do this now. What was to be written may be there, whole, or not."""


class NotFoundError(StorageError):
    """There is no such object, or not in that generation."""


class BadNameError(NotFoundError):
    """No object of this bucket can have this name; whoever only reads need not tell the difference."""


class TooLargeError(StorageError):
    """The object has more bytes than the reader takes."""


class ChangedError(StorageError):
    """The object is not in the generation that the writer expects."""


@dataclass(frozen=True)
class Stat:
    """What is known of an object without reading it."""

    # Differs between any two contents of one name, and grows with each.
    generation: int
    size: int
    # The writer's claim.
    content_type: str
    # Seconds since the epoch, by the store's clock.
    updated: float
    # What the writer noted with it.
    metadata: Mapping[str, str] = field(default_factory=dict)


class Bucket(Protocol):
    """Objects by name. An object is written whole or not at all; threads and processes may share a bucket.

    Every method may raise TransientError (try again later) and StorageError (a person must act).
    """

    @property
    def url(self) -> str:
        """Where the bucket is, with a slash at its end: this and an object's name make the object's URL."""

    def read(
        self, name: str, *, generation: int | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, int]:
        """The bytes of an object and their generation: the newest, or the one asked for.

        Raises:
            NotFoundError: there is no such object, or it is no longer in `generation`.
            TooLargeError: it has more than `max_bytes`; no more than about those were held.
        """

    def stat(self, name: str) -> Stat | None:
        """What is known of the newest generation; None if there is no such object."""

    def create(self, name: str, data: bytes, content_type: str = BINARY) -> bool:
        """Write a new object and return True, durably; False if one of that name is there already.

        Of all who create one name at once, exactly one gets True. Raises BadNameError.
        """

    def write(
        self, name: str, data: bytes, content_type: str = BINARY, *, if_generation: int | None = None
    ) -> int:
        """Write or overwrite an object, durably; returns its generation.

        Raises:
            BadNameError: no object can have that name.
            ChangedError: `if_generation` is given and not the present one (0: there is none).
        """

    def delete(self, name: str, *, if_generation: int | None = None) -> bool:
        """Remove an object; False if it was not there.

        Raises:
            ChangedError: `if_generation` is given and not the present one.
        """

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names that start with `prefix`, in no particular order."""

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """The names that start with `prefix` in the order of their bytes, with the newest generations."""

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Whether the caller is the only holder of an object, for the block; a holder that dies lets go.

        Only a means against doing work twice: a store that has no such locks says True to everyone.
        """

    def cleanup(self) -> None:
        """Remove what writers that died left behind."""
