"""Vectors of one space in memory, by id: the nearest are found by one product. Not safe for threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Matrix:
    """(n, d) float32 rows of length 1 in no particular order, each with the id of its entry."""

    def __init__(self, dimensions: int) -> None:
        # Of the store, when its changes were last taken in.
        self.version = 0
        self._rows = np.empty((0, dimensions), np.float32)
        self._ids = np.empty(0, np.int64)
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def reserve(self, count: int) -> None:
        """Make room for `count` rows in all."""
        if count > len(self._ids):
            # In place: large blocks are mapped elsewhere, not copied. No view is ever given away.
            self._rows.resize((count, self._rows.shape[1]), refcheck=False)
            self._ids.resize(count, refcheck=False)

    def put(self, ids: Sequence[int], vectors: bytes) -> None:
        """Add or replace the rows of `ids`, given as little-endian float32."""
        if len(self) + len(ids) > len(self._ids):
            self.reserve((len(self) + len(ids)) * 5 // 4)
        places = [self._places.setdefault(id_, len(self._places)) for id_ in ids]
        self._rows[places] = np.frombuffer(vectors, "<f4").reshape(len(ids), -1)
        self._ids[places] = ids

    def remove(self, ids: Iterable[int]) -> None:
        """Remove the rows of those `ids` that are there."""
        for id_ in ids:
            if (place := self._places.pop(id_, None)) is None:
                continue
            last = len(self._places)
            if place != last:
                self._rows[place], self._ids[place] = self._rows[last], self._ids[last]
                self._places[int(self._ids[last])] = place

    def clear(self) -> None:
        """Remove every row, and forget the version."""
        self._places.clear()
        self.version = 0

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """The cosine of each row and `vector`, which has length 1: (n,) float32."""
        found: np.ndarray = self._rows[: len(self)] @ vector
        return found

    def best(
        self,
        scores: np.ndarray,
        k: int,
        min_score: float | None = None,
        among: Iterable[int] | None = None,
    ) -> list[tuple[int, float]]:
        """(id, score) of the `k` best of `scores`, best first; of equals the one with the lower id.

        With `among`, only of these ids, all of which must be there.
        """
        ids = self._ids[: len(self)]
        if among is not None:
            places = [self._places[id_] for id_ in among]
            scores, ids = scores[places], ids[places]
        if min_score is not None:
            good = scores >= min_score
            scores, ids = scores[good], ids[good]
        if k < len(scores):
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            good = scores >= least
            scores, ids = scores[good], ids[good]
        order = np.lexsort((ids, -scores))[:k]
        return [(int(ids[place]), float(scores[place])) for place in order]
