"""Zero-shot classification: each picture gets the class whose prompts it is closest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_cache.evaluating.metrics import Bootstrap, Figure, Ranking, rank

TOP_CLASSES = (1, 5)


@dataclass(frozen=True)
class Classification:
    """Shares of pictures, from 0 to 1, whose class is the first, and among the first five."""

    top1: Figure
    top5: Figure
    # The classes in order of similarity, for each picture.
    ranking: Ranking


def classify(pictures: np.ndarray, classes: np.ndarray, right: Sequence[int]) -> Classification:
    """The figures of unit vectors of pictures (n, d) and classes (c, d), given the class of each picture."""
    ranking = rank(pictures, classes, [[index] for index in right])
    bootstrap = Bootstrap(range(len(pictures)), len(pictures))
    top1, top5 = (bootstrap.mean(ranking.ranks <= k) for k in TOP_CLASSES)
    return Classification(top1, top5, ranking)
