"""Figures of retrieval and of classification, from unit vectors, with intervals from the bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RECALL_AT = (1, 5, 10)
TOP = 10
# Resamples of the bootstrap, and the share of them that an interval holds: its percentiles 2.5 and 97.5.
RESAMPLES = 1000
CONFIDENCE = 0.95
# The resamples are the same for every model and in every run.
_SEED = 0
# Queries scored at a time, to bound the memory of the scores.
_QUERIES = 512


@dataclass(frozen=True)
class Figure:
    """An estimate and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """How queries ranked their answers.

    `ranks`: (n,) int64, the place of the best right answer of each query, from 1. `top`: (n, k) int64, the
    answers at the first k places, k = min(TOP, answers).
    """

    ranks: np.ndarray
    top: np.ndarray


def rank(queries: np.ndarray, answers: np.ndarray, right: Sequence[Sequence[int]]) -> Ranking:
    """Rank all `answers` (m, d) for each of `queries` (n, d), by their dot product.

    A wrong answer with the score of the right one comes first: a model that gives the same vector for
    everything finds nothing.

    Args:
        right: for each query, the indices of its right answers, distinct, at least one.
    """
    count = len(answers)
    width = min(TOP, count)
    ranks = np.empty(len(queries), np.int64)
    top = np.empty((len(queries), width), np.int64)
    for start in range(0, len(queries), _QUERIES):
        scores = queries[start : start + _QUERIES] @ answers.T
        for row, values in enumerate(scores, start):
            mine = list(right[row])
            ranks[row] = 1 + (values >= values[mine].max()).sum() - (values[mine] >= values[mine].max()).sum()
        top[start : start + _QUERIES] = _best(scores, width)
    return Ranking(ranks, top)


def _best(scores: np.ndarray, width: int) -> np.ndarray:
    """The indices of the `width` highest scores of each row, the highest first."""
    some = np.argpartition(-scores, width - 1, axis=1)[:, :width]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    best: np.ndarray = np.take_along_axis(some, order, axis=1)
    return best


def agreement(ranking: Ranking, reference: Ranking) -> float:
    """The share of the reference's top answers, in any order, that `ranking` has among its own; 0 to 1."""
    shared = [len(np.intersect1d(a, b)) for a, b in zip(ranking.top, reference.top, strict=True)]
    return float(np.mean(shared) / ranking.top.shape[1])


class Bootstrap:
    """Resamples of pictures, drawn with replacement; all queries of a picture go with it.

    Args:
        owners: for each query, the index of its picture, below `pictures`.
    """

    def __init__(self, owners: Sequence[int], pictures: int) -> None:
        self._owners = np.asarray(owners, np.int64)
        self._pictures = pictures

    def mean(self, values: np.ndarray) -> Figure:
        """The mean over the queries of `values` (n,), which may be differences of two models."""
        sums = np.bincount(self._owners, weights=values, minlength=self._pictures)
        counts = np.bincount(self._owners, minlength=self._pictures)
        means = [float(drawn @ sums) / max(1, int(drawn @ counts)) for drawn in self._draw()]
        return _figure(float(np.mean(values)), means)

    def median(self, values: np.ndarray) -> Figure:
        """The median over the queries of `values` (n,)."""
        order = np.argsort(values, kind="stable")
        ordered, owners = values[order], self._owners[order]
        medians = []
        for drawn in self._draw():
            weights = np.cumsum(drawn[owners])
            medians.append(float(ordered[min(len(values) - 1, np.searchsorted(weights, weights[-1] / 2))]))
        return _figure(float(np.median(values)), medians)

    def _draw(self) -> Iterator[np.ndarray]:
        """How often each resample has each picture: (pictures,) for each of RESAMPLES."""
        generator = np.random.default_rng(_SEED)
        for _ in range(RESAMPLES):
            drawn = generator.integers(self._pictures, size=self._pictures)
            yield np.bincount(drawn, minlength=self._pictures)


def _figure(value: float, resampled: Sequence[float]) -> Figure:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Figure(value, float(low), float(high))
