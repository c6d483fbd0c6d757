"""Indexes: the vectors of a bucket's objects, searched by cosine similarity, behind one Protocol.

Events arrive late, twice and in any order, so the generation of an object decides: an older generation never
replaces or removes a newer one. A removed object leaves a tombstone, which keeps older generations out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np

from clip_embeddings.storage.types import ALL_NAMES, NameRange, StorageError

# Results of one query, at most. Firestore returns no more.
MAX_RESULTS = 1000
# Entries of one sample, and bytes of one part of a report, at most.
MAX_SAMPLE = 5000
MAX_PART_BYTES = 512 * 1024
# Characters of a label, at most: an index of PostgreSQL holds them, whose keys are short.
MAX_LABEL_CHARS = 256


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
    # What the object shows: labels with their probabilities, best first.
    labels: Mapping[str, float] = field(default_factory=dict)
    # Identifies the labels that were tried, their templates and threshold, and the model. "": never tagged.
    label_set: str = ""

    @property
    def uri(self) -> str:
        """Where the object is: gs://bucket/name, or a file:// URL."""
        return object_uri(self.bucket, self.name)


@dataclass(frozen=True)
class Hit:
    """One result of a query: an entry, without its vector unless that was asked for, and its score."""

    entry: Entry
    # Cosine similarity, from -1 to 1.
    score: float


@dataclass(frozen=True)
class QueryResult:
    """The results of a query, best first."""

    hits: list[Hit]
    # False: the index looked at only MAX_RESULTS entries, fewer of which matched than were asked for.
    is_complete: bool = True


@dataclass(frozen=True)
class Filter:
    """Which entries a query may return. By default all of them."""

    # Only objects of this bucket, and only those whose names start with the prefix.
    bucket: str | None = None
    prefix: str = ""
    # Only objects that were changed at this time or later, and before this time. Both have a time zone.
    updated_from: datetime | None = None
    updated_before: datetime | None = None
    # Only entries that carry this label.
    label: str | None = None
    # Only objects of this declared type, or of all types that begin as in `image/*`. ASCII case is ignored.
    content_type: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text of the filter, to check that an index could hold it."""
        return (self.bucket or "", self.prefix, self.label or "", self.content_type or "")

    @property
    def has_attributes(self) -> bool:
        """Whether it asks for more than a bucket and a prefix."""
        return (self.updated_from, self.updated_before, self.label, self.content_type) != (None,) * 4

    def matches(self, entry: Entry) -> bool:
        """Whether a query may return the entry."""
        return (
            self.bucket in (None, entry.bucket)
            and entry.name.startswith(self.prefix)
            and (self.updated_from is None or entry.updated >= self.updated_from)
            and (self.updated_before is None or entry.updated < self.updated_before)
            and (self.label is None or self.label in entry.labels)
            and (self.content_type is None or _has_type(entry.content_type, self.content_type))
        )


EVERYTHING = Filter()


class LabelChange(NamedTuple):
    """The labels of one object, as `Index.set_labels` takes them."""

    bucket: str
    name: str
    generation: int
    labels: Mapping[str, float]
    label_set: str


class IndexedVersion(NamedTuple):
    """What the index holds of an object: enough to tell whether it is up to date."""

    name: str
    generation: int
    fingerprint: str
    label_set: str = ""


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
        where: Filter = EVERYTHING,
        *,
        min_score: float | None = None,
        with_vectors: bool = False,
    ) -> QueryResult:
        """The `k` entries of one space that are nearest to `vector`, best first.

        Args:
            vector: (d,), of any length.
            k: 1 to MAX_RESULTS.
            where: only entries that match.
            min_score: only entries with at least this cosine similarity.
            with_vectors: whether the entries have their vectors.

        Raises:
            EntryError: the vector is invalid, or does not have the dimensions of the space.
        """

    def set_labels(self, changes: Sequence[LabelChange]) -> list[bool]:
        """Replace the labels of objects, durably; for each, whether its generation is present.

        Nothing else changes, and what is not present in this generation stays as it is.

        Raises:
            EntryError: labels that no index can hold. Nothing was written.
        """

    def sample(self, space: str, count: int, *, bucket: str | None = None) -> list[Entry]:
        """Entries of a space with their vectors, chosen at random: `count`, or all if these are fewer.

        Args:
            count: 1 to MAX_SAMPLE.
            bucket: only objects of this bucket.
        """

    def write_report(self, name: str, parts: Sequence[bytes]) -> None:
        """Keep a report, durably, in place of the one that had this name.

        Each part has at most MAX_PART_BYTES. A reader may be given part 0 of the old report and a later part
        of the new one, so parts should say which report they belong to. Whoever has read part 0 of the new
        report gets all others of it.
        """

    def read_report(self, name: str, part: int) -> bytes | None:
        """One part of a report; None if there is none."""

    def get(self, bucket: str, name: str) -> Entry | None:
        """An object's entry with its vector; None if the index has none."""

    def get_many(self, bucket: str, names: Sequence[str]) -> list[Entry | None]:
        """As `get` for each of the names, but without the vectors, and at once."""

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[IndexedVersion]:
        """What is there of every entry of a bucket, in the order of the names' bytes.

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


def type_prefix(content_type: str) -> str | None:
    """What types begin with that match `image/*`; None if `content_type` has no such form."""
    return content_type[:-1] if content_type.endswith("/*") else None


def ascii_lower(text: str) -> str:
    """`text` with the letters A to Z in lower case, as every index compares types."""
    return text.encode().lower().decode()


def _has_type(given: str, wanted: str) -> bool:
    prefix = type_prefix(wanted)
    if prefix is None:
        return ascii_lower(given) == ascii_lower(wanted)
    return ascii_lower(given).startswith(ascii_lower(prefix))
