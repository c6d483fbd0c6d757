"""Indexes: the vectors of a bucket's objects, searched by cosine similarity, behind one Protocol.

Events arrive late, twice and in any order, so the generation of an object decides: an older generation never
replaces or removes a newer one. A removed object leaves a tombstone, which keeps older generations out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from clip_embeddings.storage.types import ALL_NAMES, NameRange, StorageError

# Every index stores integers as 64 bits with a sign.
MAX_GENERATION = 2**63 - 1


class EntryError(StorageError):
    """An entry or a vector that no index can hold or compare. The message says why."""


@dataclass(frozen=True)
class Entry:
    """One object and its vector."""

    # The name of a Cloud Storage bucket, or the URL of a local folder, ending with a slash.
    bucket: str
    name: str
    generation: int
    # As the uploader declared it; not verified.
    content_type: str
    # In bytes.
    size: int
    # With a time zone.
    updated: datetime
    # The embedding space. Only vectors of one space can be compared.
    space: str
    # Identifies the model and the preprocessing that made the vector.
    fingerprint: str
    # (d,) float32, L2-normalized; (0,) in the results of a query.
    vector: np.ndarray = field(compare=False, repr=False)
    # The uploader's own key-value pairs.
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where the object is: gs://bucket/name, or a file:// URL."""
        return object_uri(self.bucket, self.name)


@dataclass(frozen=True)
class Hit:
    """One result of a query: an entry without its vector, and its score."""

    entry: Entry
    # Cosine similarity, from -1 to 1.
    score: float


class Index(Protocol):
    """Entries by bucket and name, and by similarity. Threads and processes may share an index.

    Every method may raise TransientError (try again later) and StorageError (an operator must act).
    """

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        """Add entries or replace older ones, durably; for each, whether it was written.

        False means that the index holds a newer generation or its tombstone. The same generation is written
        again, unless it was removed. Vectors are normalized to length 1.

        Raises:
            EntryError: a vector is invalid or does not have the dimensions of its space. Nothing was written.
        """

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        """Remove an object up to `generation`, durably; False if a newer one is present or was removed.

        Until the tombstone expires, no upsert of this generation or an older one is accepted.

        Args:
            forget: accept every generation again: the object may return in the generation that it had.
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
        """The `k` entries of one space that are nearest to `vector`, best first.

        Args:
            vector: (d,), of any length.
            k: 1 to 1,000.
            bucket, prefix: only objects of this bucket, only names that start with this prefix.
            min_score: only entries with at least this cosine similarity.

        Raises:
            EntryError: the vector is invalid, or does not have the dimensions of the space.
        """

    def get(self, bucket: str, name: str) -> Entry | None:
        """An object's entry with its vector; None if the index has none."""

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[tuple[str, int, str]]:
        """(name, generation, fingerprint) of every entry of a bucket, in the order of the names' bytes.

        Args:
            prefix, within: only names that start with this prefix, only names of this range. What is outside
                of them is not read.
        """

    def entries(self, space: str | None = None) -> Iterator[Entry]:
        """Every entry with its vector, of one space or of all, in no particular order.

        What changes meanwhile is in it or not.
        """

    def count(self, space: str | None = None) -> int:
        """The number of entries of one space, or of all spaces."""

    def replacements(self) -> int:
        """How often all entries were found to be gone or replaced at once, since the index was opened.

        When this grows, the index should be compared with its bucket. Cheap.
        """


def object_uri(bucket: str, name: str) -> str:
    """Where an object is: gs://bucket/name, or a file:// URL."""
    return f"{bucket}{name}" if "://" in bucket else f"gs://{bucket}/{name}"


def check_entry(entry: Entry) -> Entry:
    """The entry with its vector normalized to length 1.

    Raises:
        EntryError: not every index can hold the entry.
    """
    check_generation(entry.generation)
    if not is_text(entry.bucket, entry.name, entry.content_type, entry.space, entry.fingerprint):
        raise EntryError("The object's name or type is not text in Unicode.")
    if not is_text(*entry.metadata, *entry.metadata.values()):
        raise EntryError("The object's metadata are not text in Unicode.")
    return replace(entry, vector=normalize(entry.vector))


def normalize(vector: np.ndarray) -> np.ndarray:
    """`vector` as (d,) float32 of length 1. A vector that has this length already keeps its bits.

    Raises:
        EntryError: it is not a list of finite numbers, or is zero.
    """
    values = np.asarray(vector, dtype=np.float32)
    if values.ndim != 1 or not values.size:
        raise EntryError("A vector must be a list of numbers.")
    length = float(np.linalg.norm(values.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise EntryError("A vector must be finite and must not be zero.")
    return values if abs(length - 1) < 1e-5 else (values / np.float64(length)).astype(np.float32)


def check_dimensions(space: str, expected: int, given: int) -> None:
    """Raises EntryError if a vector of `given` dimensions is not one of the space's `expected` dimensions."""
    if expected != given:
        raise EntryError(f"The space {space!r} has vectors of {expected} dimensions; this one has {given}.")


def check_generation(generation: int) -> None:
    """Raises EntryError if no store can have this generation."""
    if not 0 <= generation <= MAX_GENERATION:
        raise EntryError("An object's generation must be a whole number of at most 63 bits.")


def is_text(*values: str) -> bool:
    """Whether all values can be stored as UTF-8. Lone surrogates, as in JSON and file names, cannot."""
    try:
        return all(value.encode() is not None for value in values)
    except UnicodeEncodeError:
        return False


def names_with_prefix(prefix: str, within: NameRange = ALL_NAMES) -> NameRange:
    """The names of a range that start with `prefix`."""
    ends = [end for end in (prefix_end(prefix), within.end) if end is not None]
    return NameRange(max(prefix, within.start), min(ends, default=None))


def prefix_end(prefix: str) -> str | None:
    """The first string after all that start with `prefix`, in the order of UTF-8; None if there is none."""
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    next_code_point = ord(head[-1]) + 1
    # Surrogates, from 0xD800 to 0xDFFF, are not characters.
    return head[:-1] + chr(0xE000 if next_code_point == 0xD800 else next_code_point)
