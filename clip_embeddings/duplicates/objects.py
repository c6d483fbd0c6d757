"""The objects of an index in memory, as the search for near-duplicates needs them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from clip_embeddings.index.types import Entry

# How much larger the room for vectors becomes when it is full.
GROWTH = 1.25


class Objects:
    """The objects of one space: name, generation, size, time, and vectors in one array."""

    def __init__(self, dimensions: int, expected: int) -> None:
        self.names: list[str] = []
        self.generations = array("q")
        self._sizes = array("q")
        self._times = array("d")
        self._vectors = np.empty((max(1, expected), dimensions), np.float32)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def vectors(self) -> np.ndarray:
        """(n, d) float32, of length 1."""
        return self._vectors[: len(self)]

    def add(self, entry: Entry) -> None:
        """Add an object."""
        if len(self) == len(self._vectors):
            # Resizing in place remaps large blocks instead of copying them.
            shape = (int(len(self) * GROWTH) + 1, self._vectors.shape[1])
            self._vectors.resize(shape, refcheck=False)
        self._vectors[len(self)] = entry.vector
        self.names.append(entry.name)
        self.generations.append(entry.generation)
        self._sizes.append(entry.size)
        self._times.append(entry.updated.timestamp())

    def order(self) -> np.ndarray:
        """(n,) the objects' numbers: the largest file first; of equal ones the oldest, then by name."""
        by_name = np.array(sorted(range(len(self)), key=self.names.__getitem__), np.int64)
        sizes, times = np.array(self._sizes), np.array(self._times)
        return by_name[np.lexsort((times[by_name], -sizes[by_name]))]


def read_objects(entries: Iterable[Entry], bucket: str, expected: int) -> dict[str, Objects]:
    """The objects of a bucket, by space.

    Args:
        expected: the number of entries, about.
    """
    spaces: dict[str, Objects] = {}
    for entry in entries:
        if entry.bucket == bucket:
            if entry.space not in spaces:
                spaces[entry.space] = Objects(len(entry.vector), 0 if spaces else expected)
            spaces[entry.space].add(entry)
    return spaces
