"""The stored report of near-duplicates: groups of names and scores, in parts that an index can keep."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from clip_embeddings.index.types import Index

# Members of a group that are stored: the first one, and those nearest to it. With the longest names of files,
# 4,096 bytes, a group still fits into a part.
MAX_MEMBERS = 100
# Bytes of groups after which a part ends. With one more group it has less than the most that an index takes.
PART_BYTES = 64 * 1024


class Member(msgspec.Struct, frozen=True, array_like=True):
    """An object of a group."""

    name: str
    generation: int
    # Cosine with the first member; 1 for that one.
    score: float


class StoredGroup(msgspec.Struct, frozen=True, array_like=True):
    """Near-duplicates of one object, which is the first one."""

    # How many there are; more than `members` in a very large group.
    count: int
    members: list[Member]

    @property
    def score(self) -> float:
        """The least of the members' scores."""
        return min(member.score for member in self.members)


class Summary(msgspec.Struct, frozen=True):
    """What a report is about."""

    # Another one for each report. Parts of different reports do not belong together.
    version: str
    bucket: str
    space: str
    threshold: float
    # RFC 3339, in UTC.
    made: str
    # Objects that were compared.
    objects: int


class Part(msgspec.Struct, frozen=True):
    """One part of a report."""

    summary: Summary
    parts: int
    groups: list[StoredGroup]


def new_version() -> str:
    """A name for a new report that no other has."""
    return secrets.token_hex(6)


def write_report(index: Index, summary: Summary, groups: Sequence[StoredGroup]) -> None:
    """Store a report in the place of the one of the same bucket and space. At least one part is stored."""
    batches = list(_batches(groups)) or [[]]
    parts = (msgspec.msgpack.encode(Part(summary, len(batches), batch)) for batch in batches)
    index.write_report(_name(summary.bucket, summary.space), list(parts))


def read_part(index: Index, bucket: str, space: str, number: int) -> Part | None:
    """One part of the report of a bucket and space; None if there is none, or none that this code reads."""
    data = index.read_report(_name(bucket, space), number)
    try:
        return None if data is None else msgspec.msgpack.decode(data, type=Part)
    except msgspec.MsgspecError:
        # Of another version of this software: the next run of the command replaces it.
        return None


def _batches(groups: Iterable[StoredGroup]) -> Iterator[list[StoredGroup]]:
    batch: list[StoredGroup] = []
    size = 0
    for group in groups:
        batch.append(group)
        size += len(msgspec.msgpack.encode(group))
        if size >= PART_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _name(bucket: str, space: str) -> str:
    return f"duplicates {bucket} {space}"
