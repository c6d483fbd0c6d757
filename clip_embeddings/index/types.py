"""Indexes: vectors of a bucket's objects, found by nearness, in SQLite or Firestore, behind one Protocol.

Events come late, twice and in any order. So an object's generation decides: nothing is replaced or removed by
what is older, and a removed object leaves a tombstone, so that what is older does not come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from clip_embeddings.storage.types import StorageError

# Stores keep integers in 64 bits.
LARGEST = 2**63 - 1


class EntryError(StorageError):
    """No index can hold or compare this: the sentence says why."""


@dataclass(frozen=True)
class Entry:
    """One object and its vector."""

    # A bucket's name; of a local folder its URL, with a slash at its end.
    bucket: str
    name: str
    generation: int
    # The uploader's claim.
    content_type: str
    size: int
    # With a time zone.
    updated: datetime
    # Vectors compare inside one space only.
    space: str
    # What made the vector: another fingerprint, another vector.
    fingerprint: str
    # (d,) float32, L2-normalised; (0,) where a query left it out.
    vector: np.ndarray = field(compare=False, repr=False)
    # The uploader's own key-value pairs.
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where the object is: gs://bucket/name, or a file:// URL."""
        return uri_of(self.bucket, self.name)


@dataclass(frozen=True)
class Hit:
    """An entry that a query found. Its vector is left out."""

    entry: Entry
    # Cosine similarity, from -1 to 1.
    score: float


class Index(Protocol):
    """Entries by bucket and name, and by nearness. Threads and processes may share an index.

    Every method may raise TransientError (try again later) and StorageError (a person must act).
    """

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        """Add entries or replace older ones, durably; for each whether it was written.

        False: a newer generation is there, or was removed. The same generation is written again, unless it
        was removed. A vector is brought to length 1.

        Raises:
            EntryError: a vector is not one, or has not the dimensions of its space. Nothing was written.
        """

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        """Remove an object that is not newer, durably; False if a newer one is there or was removed.

        Until the tombstone expires, no upsert of this generation or an older one is accepted. With `forget`,
        every generation is: the object may come back as it was.
        """

    def query(
        self,
        vector: np.ndarray,
        space: str,
        k: int,
        *,
        bucket: str | None = None,
        prefix: str = "",
        min_score: float | None = None,
    ) -> list[Hit]:
        """The `k` nearest entries of one space, best first.

        Args:
            vector: (d,), of any length.
            k: 1 to 1,000.
            bucket, prefix: only objects of this bucket, with names that start so.
            min_score: only entries with at least this cosine similarity.

        Raises:
            EntryError: the vector is not one, or has not the dimensions of the space.
        """

    def get(self, bucket: str, name: str) -> Entry | None:
        """An object's entry, with its vector; None if there is none."""

    def generations(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        """(name, generation, fingerprint) of every entry of a bucket, in the order of the names' bytes."""

    def count(self, space: str | None = None) -> int:
        """How many entries there are: of one space, or of all."""


def uri_of(bucket: str, name: str) -> str:
    """Where an object is: gs://bucket/name, or a file:// URL."""
    return f"{bucket}{name}" if "://" in bucket else f"gs://{bucket}/{name}"


def checked(entry: Entry) -> Entry:
    """The entry with a vector of length 1.

    Raises:
        EntryError: the entry cannot be held by every index.
    """
    check_generation(entry.generation)
    if not is_text(entry.bucket, entry.name, entry.content_type, entry.space, entry.fingerprint):
        raise EntryError("The object's name or type is not text in Unicode.")
    if not is_text(*entry.metadata, *entry.metadata.values()):
        raise EntryError("The object's metadata are not text in Unicode.")
    return replace(entry, vector=normalize(entry.vector))


def normalize(vector: np.ndarray) -> np.ndarray:
    """`vector` as (d,) float32 of length 1; one that has it keeps its bits.

    Raises:
        EntryError: it is not a list of finite numbers, or has no direction.
    """
    found = np.asarray(vector, dtype=np.float32)
    if found.ndim != 1 or not found.size:
        raise EntryError("A vector must be a list of numbers.")
    length = float(np.linalg.norm(found.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise EntryError("A vector must be finite and must not be zero.")
    return found if abs(length - 1) < 1e-5 else (found / np.float64(length)).astype(np.float32)


def check_dimensions(space: str, expected: int, given: int) -> None:
    """Raises EntryError: the space has vectors of another size."""
    if expected != given:
        raise EntryError(f"The space {space!r} has vectors of {expected} dimensions; this one has {given}.")


def check_generation(generation: int) -> None:
    """Raises EntryError: no store has such a generation."""
    if not 0 <= generation <= LARGEST:
        raise EntryError("An object's generation must be a whole number of at most 63 bits.")


def is_text(*values: str) -> bool:
    """Whether all are Unicode that can be stored: no lone surrogates, which JSON and file names may hold."""
    try:
        return all(value.encode() is not None for value in values)
    except UnicodeEncodeError:
        return False


def prefix_end(prefix: str) -> str | None:
    """The first string behind all that start with `prefix`, in the order of UTF-8; None: there is none."""
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    last = ord(head[-1]) + 1
    # Surrogates are no characters.
    return head[:-1] + chr(0xE000 if last == 0xD800 else last)
