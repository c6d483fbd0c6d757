"""How the names of a bucket are shared among tasks: ranges of names that hold equally many.

A plan says where the names are, whatever the number of tasks. Its shares cover every name that can exist, so
objects that are written after it was made belong to one of them as well: an old plan is only less even.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import orjson

from clip_embeddings.config import TaskSettings
from clip_embeddings.storage.types import NameRange, StorageError

# Cells of a plan: enough that the shares of the most tasks of a Cloud Run job, 10,000, differ little.
# https://cloud.google.com/run/quotas
MAX_CELLS = 32_768


FORMAT = 1


class PlanError(StorageError):
    """An object is not a plan of this bucket. The message says why."""


class Cells:
    """Names that are added in order, as runs of neighbors with their numbers. Bounded memory."""

    def __init__(self) -> None:
        # The first name of each cell, and how many names it holds.
        self.starts: list[str] = []
        self.counts: list[int] = []

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, names: Iterable[str], size: int) -> None:
        """Add names after all those before them, in cells of `size` names."""
        starts, counts = self.starts, self.counts
        for name in names:
            if counts and counts[-1] < size:
                counts[-1] += 1
            else:
                starts.append(name)
                counts.append(1)

    def merge(self, size: int) -> None:
        """Join neighbors whose cells have less than `size` names."""
        starts, counts = self.starts, self.counts
        self.starts, self.counts = [], []
        for start, count in zip(starts, counts, strict=True):
            if self.counts and self.counts[-1] < size:
                self.counts[-1] += count
            else:
                self.starts.append(start)
                self.counts.append(count)


@dataclass(frozen=True)
class Plan:
    """Where the names of one bucket that start with one prefix are."""

    # The value of `Entry.bucket`.
    bucket: str
    prefix: str
    # As in Cells, in the order of names.
    starts: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def names(self) -> int:
        """The number of names when the plan was made."""
        return sum(self.counts)

    def share(self, task: TaskSettings) -> NameRange:
        """The names of one task. Those of all tasks together are all names, each in one of them."""
        first, last = self._cells(task)
        start = self._cut(first)
        end = self._cut(last) if task.index + 1 < task.count else None
        return NameRange("", "") if start is None else NameRange(start, end)

    def size(self, task: TaskSettings) -> int:
        """How many names the share of one task held when the plan was made."""
        first, last = self._cells(task)
        return sum(self.counts[first:last])

    def _cells(self, task: TaskSettings) -> tuple[int, int]:
        """The first cell of a share, and the one after its last cell."""
        ends = [0, *accumulate(self.counts)]
        return tuple(  # type: ignore[return-value]
            len(self.starts) if index == task.count else bisect_left(ends, index * ends[-1] // task.count)
            for index in (task.index, task.index + 1)
        )

    def _cut(self, cell: int) -> str | None:
        """Where a cell starts; None after the last one."""
        if cell == 0:
            return ""
        return self.starts[cell] if cell < len(self.starts) else None


def join(bucket: str, prefix: str, parts: Iterable[Cells]) -> Plan:
    """The plan of cells that were counted apart, in the order of names."""
    starts: list[str] = []
    counts: list[int] = []
    for cells in parts:
        starts += cells.starts
        counts += cells.counts
    return Plan(bucket, prefix, tuple(starts), tuple(counts))


def to_json(plan: Plan) -> bytes:
    """The object that holds a plan."""
    return orjson.dumps({"format": FORMAT, **vars(plan)})


def parse_plan(data: bytes, bucket: str, prefix: str) -> Plan:
    """The plan of an object. Raises PlanError if it is none, or is about other names."""
    try:
        value = orjson.loads(data)
        fields: Mapping[str, Any] = value if isinstance(value, dict) else {}
        starts, counts = fields["starts"], fields["counts"]
        if fields["format"] != FORMAT or (fields["bucket"], fields["prefix"]) != (bucket, prefix):
            raise PlanError(
                "The plan is of another version of this software, or of another bucket or prefix."
            )
        valid = all(isinstance(start, str) for start in starts) and all(
            type(n) is int and n > 0 for n in counts
        )
        if not valid or len(starts) != len(counts) or any(a >= b for a, b in pairwise(starts)):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise PlanError("The plan cannot be read: remove it, or start another execution.") from None
    return Plan(bucket, prefix, tuple(starts), tuple(counts))
