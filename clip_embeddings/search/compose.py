"""The arithmetic of queries that have several parts: a weighted sum of vectors, and what each part adds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from clip_embeddings.errors import ApiError

# What a text's factor is multiplied by where the collection is too small to measure the spread of scores:
# pictures differ about twice as much in their similarity to a picture as to a text.
ASSUMED_RATIO = 2.0
# The bounds of what measured spreads may multiply a factor by. The largest that models have is about 4.
MAX_RATIO = 8.0
# A sum shorter than this, relative to its terms, is rounding: the parts cancel each other.
MIN_LENGTH = 1e-4


class Composition(msgspec.Struct, frozen=True):
    """A query's vector, (d,) float32 of length 1, and the terms that add up to it."""

    vector: np.ndarray
    # By part: unit vectors, times their factors and divided by the length of their sum.
    terms: Mapping[str, np.ndarray]

    def shares(self, vector: np.ndarray) -> dict[str, float]:
        """What each part adds to the score of the entry that has the unit vector `vector`, (d,)."""
        return {part: float(term @ vector) for part, term in self.terms.items()}


def factors(
    weights: Mapping[str, float], vectors: Mapping[str, np.ndarray], sample: np.ndarray | None
) -> dict[str, float]:
    """What each unit vector is multiplied by, so that parts of equal weight have equal influence.

    Pictures are closer to each other than to any text, and their scores differ more, so in a plain sum a
    picture outvotes the words. Each weight is therefore divided by the spread of its part's scores in the
    collection, relative to the widest one.

    Args:
        sample: (n, d) unit vectors of the collection; None if it is too small.
    """
    if sample is None:
        has_picture = "image" in weights or "uri" in weights
        is_text = {"text": has_picture, "not": has_picture}
        ratios = {part: ASSUMED_RATIO if is_text.get(part) else 1.0 for part in weights}
    else:
        scores = sample @ np.stack([vectors[part] for part in weights], axis=1)
        spreads = np.maximum(scores.std(axis=0), 1e-6)
        limited = np.minimum(spreads.max() / spreads, MAX_RATIO)
        ratios = dict(zip(weights, map(float, limited), strict=True))
    return {part: weight * ratios[part] * (-1 if part == "not" else 1) for part, weight in weights.items()}


def compose(factors: Mapping[str, float], vectors: Mapping[str, np.ndarray]) -> Composition:
    """The normalized sum of `factors` times `vectors`, which are (d,) of length 1.

    Raises:
        ApiError: 400 if the parts cancel each other out.
    """
    terms = {part: np.float64(factor) * vectors[part] for part, factor in factors.items()}
    total = np.sum(list(terms.values()), axis=0)
    length = float(np.linalg.norm(total))
    if not length > MIN_LENGTH * sum(map(abs, factors.values())):
        message = "The parts of the query cancel each other out: nothing is left to look for."
        raise ApiError(400, "query_cancels_out", message, where="$")
    terms = {part: term / length for part, term in terms.items()}
    return Composition((total / length).astype(np.float32), terms)
