"""Whether anything is close: a query's own scores in a sample of the collection say what is noise."""

from __future__ import annotations

from math import log, sqrt

import msgspec
import numpy as np

# Fewer scores do not tell noise from results.
MIN_SAMPLE = 50
# The share of normally distributed values that are less than their mean minus their standard deviation.
ONE_DEVIATION = 0.1587


class Noise(msgspec.Struct, frozen=True):
    """The scores that a query has in the collection whatever it asks for."""

    # Half of the collection scores less.
    level: float
    # The score from which a result stands out.
    threshold: float

    def closeness(self, score: float) -> float:
        """0 for the level or less, 0.5 for the threshold, 1 for twice as far from the level or more."""
        return min(1.0, max(0.0, (score - self.level) / (2 * (self.threshold - self.level))))


def measure_noise(vector: np.ndarray, sample: np.ndarray | None) -> Noise | None:
    """The noise of a query, `vector` (d,) of length 1, in a random sample of the collection; None for none.

    The level is the median of the scores, and their deviation that of the lower half, so that neither changes
    much while less than a third of the collection is what the query asks for. The best of n normally
    distributed values is seldom above sqrt(2 ln n) deviations, the universal threshold of Donoho and
    Johnstone, "Ideal spatial adaptation by wavelet shrinkage" (1994). A collection larger than its sample has
    more of the same, so n is that of the sample.

    A threshold is never more than halfway from the level to 1: where everything looks alike, a copy is close.

    Args:
        sample: (n, d) of length 1.
    """
    if sample is None or len(sample) < MIN_SAMPLE:
        return None
    ranks = (int(ONE_DEVIATION * len(sample)), len(sample) // 2)
    low, level = np.partition(sample @ vector, ranks)[list(ranks)].tolist()
    level = min(level, 0.99)
    deviation = max(level - low, 1e-4)
    return Noise(level, min(level + deviation * sqrt(2 * log(len(sample))), (1 + level) / 2))
