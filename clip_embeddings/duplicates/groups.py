"""Groups of near-duplicate vectors.

The rule: objects are taken in an order of the caller's, the one that most people would keep first. Each that
belongs to no group yet begins one, and all later ones that belong to none and are at least as similar to it
as the threshold join it. So all members of a group are near its first, and a chain of small differences never
ties pictures together that have nothing in common.

The vectors are compared in blocks: memory holds the vectors, a quarter of each once more, and a few blocks of
scores, however large a group is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Rows and columns of a block of scores: 16 MB as 32-bit floats.
ROWS, COLUMNS = 1024, 4096

# Dimensions that are compared first, as a share of all: see `_bounding_rows`. And vectors that say which.
FIRST_SHARE = 0.25
SAMPLED_VECTORS = 8192

# Vectors that are in a group already are left out of products once they are so large a share of the rest.
TAKEN_SHARE = 0.1

# Rounding errors of a sum of products of 32-bit floats, and of a bound of one, which has room to spare.
ERROR, BOUND_ERROR = 1e-6, 1e-4


@dataclass(frozen=True)
class Group:
    """The numbers of a group's vectors, and their cosines with its first one, which is first: best first."""

    numbers: np.ndarray
    scores: np.ndarray


def find_groups(
    vectors: np.ndarray,
    order: np.ndarray,
    threshold: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Group]:
    """The groups of two or more vectors, in no particular order.

    Args:
        vectors: (n, d) float32, of length 1.
        order: (n,) the numbers of the vectors, in the order in which they begin groups.
        threshold: the least cosine with the first member.
        on_progress: called with how many of the vectors need not be compared any more.
    """
    # For each vector the number of its group's first one, and its cosine with that.
    firsts, scores = np.arange(len(vectors)), np.ones(len(vectors), np.float32)
    blocks = _Blocks(vectors, order, threshold)
    while blocks.remaining:
        for first, others, their_scores in blocks.take():
            firsts[others], scores[others] = first, their_scores
        on_progress(len(vectors) - blocks.remaining)
    joined = np.flatnonzero(firsts != np.arange(len(vectors)))
    # By group, and in it by score.
    joined = joined[np.lexsort((joined, -scores[joined], firsts[joined]))]
    ends = np.flatnonzero(np.diff(firsts[joined], append=-1)) + 1
    groups = np.split(joined, ends[:-1]) if len(joined) else []
    return [
        Group(np.concatenate((firsts[others[:1]], others)), np.concatenate(([1.0], scores[others])))
        for others in groups
    ]


class _Blocks:
    """The vectors that have neither begun nor joined a group, in their order, and which are next."""

    def __init__(self, vectors: np.ndarray, order: np.ndarray, threshold: float) -> None:
        self._vectors = vectors
        self._threshold = threshold
        # Both in the order in which groups begin.
        self._bounding = _bounding_rows(vectors, order)
        self._numbers = order
        # Of those from `start` on, which have joined a group.
        self._taken = np.zeros(len(vectors), bool)
        self._start = 0

    @property
    def remaining(self) -> int:
        """The number of vectors from the next one on."""
        return len(self._numbers) - self._start

    def take(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Compare the next vectors with all after them.

        Yields:
            The number of the first member of a group, those of others that join it, and their cosines.
        """
        end = min(len(self._numbers), self._start + ROWS)
        rows = self._start + np.flatnonzero(~self._taken[self._start : end])
        # Among themselves, one after the other: whoever joins a group begins none.
        hits, scores = self._compare(rows, rows)
        for row in np.flatnonzero(np.triu(hits, 1).any(axis=1)):
            if not self._taken[rows[row]]:
                columns = row + 1 + np.flatnonzero(hits[row, row + 1 :])
                columns = columns[~self._taken[rows[columns]]]
                yield self._join(rows[row], rows[columns], scores[row, columns])
        rows = rows[~self._taken[rows]]
        for start in range(end, len(self._numbers), COLUMNS):
            columns = start + np.flatnonzero(~self._taken[start : start + COLUMNS])
            hits, scores = self._compare(rows, columns)
            positions = np.flatnonzero(hits.any(axis=0))
            # Of several that are near enough the first one, which need not be the nearest.
            nearest = hits[:, positions].argmax(axis=0)
            for row in np.unique(nearest):
                others = positions[nearest == row]
                yield self._join(rows[row], columns[others], scores[row, others])
        self._start = end
        if self._taken[end:].sum() > TAKEN_SHARE * self.remaining:
            self._leave_out_taken()

    def _join(self, first: int, others: np.ndarray, scores: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        self._taken[others] = True
        return int(self._numbers[first]), self._numbers[others], scores

    def _compare(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which cosines of two lists of vectors reach the threshold; and these cosines, in a matrix."""
        scores = self._bounding[rows] @ self._bounding[columns].T
        hits: np.ndarray = scores >= self._threshold - BOUND_ERROR
        if hits.any():
            row_numbers, column_numbers = np.flatnonzero(hits.any(axis=1)), np.flatnonzero(hits.any(axis=0))
            pairs = np.ix_(row_numbers, column_numbers)
            row_vectors = self._vectors[self._numbers[rows[row_numbers]]]
            exact = row_vectors @ self._vectors[self._numbers[columns[column_numbers]]].T
            scores[pairs] = np.minimum(exact, 1)
            hits[pairs] = exact >= self._threshold - ERROR
        return hits, scores

    def _leave_out_taken(self) -> None:
        """Move the rows that are left to the front, in blocks, because a copy might not fit."""
        left = self._start + np.flatnonzero(~self._taken[self._start :])
        for start in range(0, len(left), COLUMNS):
            block = left[start : start + COLUMNS]
            self._bounding[start : start + len(block)] = self._bounding[block]
        self._numbers = self._numbers[left]
        self._taken, self._start = np.zeros(len(left), bool), 0


def _bounding_rows(vectors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n, m) float32 rows in the given order, shorter than the vectors; their products bound the cosines.

    The vectors are turned so that their first dimensions are those that hold most of their lengths. A sum of
    products over all dimensions is at most that over the first ones, plus the product of the lengths of what
    is left (the inequality of Cauchy and Schwarz); that length becomes one more dimension.
    """
    count, dimensions = vectors.shape
    first = max(1, round(dimensions * FIRST_SHARE))
    step = max(1, count // SAMPLED_VECTORS)
    sampled = vectors[::step].astype(np.float64)
    # Eigenvectors in the order of their eigenvalues, the largest last.
    directions = np.linalg.eigh(sampled.T @ sampled)[1][:, -first:].astype(np.float32)
    rows = np.empty((count, first + 1), np.float32)
    for start in range(0, count, COLUMNS):
        head = vectors[order[start : start + COLUMNS]] @ directions
        rows[start : start + COLUMNS, :first] = head
        rest = 1 - np.einsum("ij,ij->i", head, head)
        rows[start : start + COLUMNS, first] = np.sqrt(np.maximum(rest, 0))
    return rows
