"""The vectors of one space in memory, by id. One matrix product scores them all. Not safe for threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Matrix:
    """(n, d) float32 rows of length 1 in no particular order, each with the id of its entry."""

    def __init__(self, dimensions: int) -> None:
        # The version of the index up to which its changes are in the matrix; 0 for an empty matrix.
        self.version = 0
        self._rows = np.empty((0, dimensions), np.float32)
        self._ids = np.empty(0, np.int64)
        # Row numbers by id.
        self._positions: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def reserve(self, count: int) -> None:
        """Make room for `count` rows in total."""
        if count > len(self._ids):
            # Resizing in place remaps large blocks instead of copying them. No view of the array leaves this
            # class, so the check for references is not needed.
            self._rows.resize((count, self._rows.shape[1]), refcheck=False)
            self._ids.resize(count, refcheck=False)

    def put(self, ids: Sequence[int], vectors: bytes) -> None:
        """Add or replace the rows of `ids`, given as consecutive little-endian float32 vectors."""
        if len(self) + len(ids) > len(self._ids):
            self.reserve((len(self) + len(ids)) * 5 // 4)
        positions = [self._positions.setdefault(id_, len(self._positions)) for id_ in ids]
        self._rows[positions] = np.frombuffer(vectors, "<f4").reshape(len(ids), -1)
        self._ids[positions] = ids

    def remove(self, ids: Iterable[int]) -> None:
        """Remove the rows of `ids`; ids without a row are ignored."""
        for id_ in ids:
            if (position := self._positions.pop(id_, None)) is None:
                continue
            last = len(self._positions)
            if position != last:
                self._rows[position], self._ids[position] = self._rows[last], self._ids[last]
                self._positions[int(self._ids[last])] = position

    def clear(self) -> None:
        """Remove every row and reset the version."""
        self._positions.clear()
        self.version = 0

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """The cosine similarity of each row and `vector`, which is (d,) of length 1: (n,) float32."""
        scores: np.ndarray = self._rows[: len(self)] @ vector
        return scores

    def best(
        self,
        scores: np.ndarray,
        k: int,
        min_score: float | None = None,
        only_ids: Iterable[int] | None = None,
    ) -> list[tuple[int, float]]:
        """(id, score) of the `k` highest `scores`, best first. Equal scores are ordered by id.

        Args:
            scores: as `scores` returned them, with no change since.
            min_score: leave out lower scores.
            only_ids: leave out all other ids. Each of these must have a row.
        """
        ids = self._ids[: len(self)]
        if only_ids is not None:
            positions = [self._positions[id_] for id_ in only_ids]
            scores, ids = scores[positions], ids[positions]
        if min_score is not None:
            selected = scores >= min_score
            scores, ids = scores[selected], ids[selected]
        if k < len(scores):
            kth_best = np.partition(scores, len(scores) - k)[len(scores) - k]
            selected = scores >= kth_best
            scores, ids = scores[selected], ids[selected]
        order = np.lexsort((ids, -scores))[:k]
        return [(int(ids[position]), float(scores[position])) for position in order]
