"""Vectors as points of a plane, near where they are alike: PCA, then t-SNE.

L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE" (2008),
https://jmlr.org/papers/v9/vandermaaten08a.html. It starts from the first two principal components, scaled, so
that the result is the same for the same vectors, and what is far apart stays so: D. Kobak and P. Berens, "The
art of using t-SNE for single-cell transcriptomics" (2019), https://doi.org/10.1038/s41467-019-13056-x.
"""

from __future__ import annotations

import numpy as np

# Components that t-SNE sees; more are noise and time.
COMPONENTS = 30
# Neighbors that a point has, in effect. Of the range 5 to 50 of the paper.
PERPLEXITY = 20.0
# Steps of the descent; during the first ones neighbors attract each other as many times more.
STEPS, EARLY_STEPS, EXAGGERATION = 250, 80, 12.0
# Standard deviation of the points at the start: Kobak and Berens.
START_DEVIATION = 1e-4
# Fewer points have too few neighbors.
MIN_POINTS = 8


def project(vectors: np.ndarray) -> np.ndarray:
    """Points (n, 2) in -1..1 for `vectors` (n, d), float32. The same vectors get the same points.

    For 1,000 vectors it takes about a second of one CPU, and 30 MB.
    """
    reduced = _principal(vectors, COMPONENTS)
    if len(vectors) < MIN_POINTS or not reduced.any():
        return _fitted(reduced[:, :2])
    affinities = _affinities(reduced)
    start = reduced[:, :2] * np.float32(START_DEVIATION / max(float(reduced[:, 0].std()), 1e-12))
    return _fitted(_descend(start, affinities))


def _principal(vectors: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components (n, count); zeros where there are fewer."""
    centered = np.asarray(vectors, np.float32) - np.mean(vectors, axis=0, dtype=np.float32)
    values, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, np.argsort(values)[::-1][:count]]
    # An axis may come out in either direction.
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    reduced = np.zeros((len(vectors), count), np.float32)
    reduced[:, : axes.shape[1]] = centered @ axes
    return reduced


def _squared_distances(points: np.ndarray) -> np.ndarray:
    squares = np.einsum("ij,ij->i", points, points)
    distances: np.ndarray = points @ points.T
    distances *= -2
    distances += squares[:, None]
    distances += squares
    np.maximum(distances, 0, out=distances)
    return distances


def _affinities(points: np.ndarray) -> np.ndarray:
    """How much each two points are neighbors, (n, n), 1 in all."""
    distances = _squared_distances(points)
    np.fill_diagonal(distances, np.inf)
    # Copies of one picture have distance 0. Relative to the mean nearest distance, exponents stay in range.
    distances /= max(float(np.mean(np.sort(distances, axis=1)[:, : min(20, len(points) - 1)])), 1e-12)
    target = np.log(min(PERPLEXITY, (len(points) - 1) / 3))
    low, high = np.full(len(points), -12.0), np.full(len(points), 12.0)
    nearest = distances.min(axis=1, keepdims=True)
    for _ in range(30):
        precision = np.exp((low + high) / 2)[:, None].astype(np.float32)
        weights = np.exp(-precision * (distances - nearest))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-12)), axis=1)
        is_wide = entropy > target
        low, high = (
            np.where(is_wide, (low + high) / 2, low),
            np.where(is_wide, high, (low + high) / 2),
        )
    joint: np.ndarray = weights + weights.T
    joint /= joint.sum()
    return joint


def _descend(points: np.ndarray, affinities: np.ndarray) -> np.ndarray:
    """Gradient descent of the Kullback-Leibler divergence, with momentum and gains as in the paper's code."""
    rate = max(len(points) / EXAGGERATION, 10.0)
    velocity, gains = np.zeros_like(points), np.ones_like(points)
    attraction = affinities * np.float32(EXAGGERATION)
    for step in range(STEPS):
        if step == EARLY_STEPS:
            attraction = affinities
        near = _squared_distances(points)
        near += 1
        np.reciprocal(near, out=near)
        np.fill_diagonal(near, 0)
        forces = attraction - near / near.sum()
        forces *= near
        gradient = 4 * (forces.sum(axis=1, keepdims=True) * points - forces @ points)
        same = (gradient > 0) == (velocity > 0)
        gains = np.maximum(np.where(same, gains * 0.8, gains + 0.2), 0.01).astype(np.float32)
        velocity = (
            velocity * np.float32(0.5 if step < EARLY_STEPS else 0.8) - np.float32(rate) * gains * gradient
        )
        points = points + velocity
        points -= points.mean(axis=0)
    return points


def _fitted(points: np.ndarray) -> np.ndarray:
    """The points in -1..1, with their proportions."""
    low, high = points.min(axis=0), points.max(axis=0)
    fitted: np.ndarray = points - (low + high) / 2
    fitted /= max(float((high - low).max()) / 2, 1e-12)
    return fitted
