"""Groups of near-duplicate vectors: the rule, in blocks, and with very many copies."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from clip_embeddings.duplicates import groups as groups_module
from clip_embeddings.duplicates.groups import Group, find_groups
from tests.support.entries import direction


def unit(vectors: np.ndarray) -> np.ndarray:
    rows: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows.astype(np.float32)


def clustered(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Vectors about a few centers, some so near to others that they are copies, and some exact copies."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(1, count // 12), dimensions))
    noise = rng.choice([0, 0.05, 0.2, 0.5], count)[:, None] * rng.standard_normal((count, dimensions))
    return unit(centers[rng.integers(0, len(centers), count)] + noise)


def by_the_rule(vectors: np.ndarray, order: np.ndarray, threshold: float) -> dict[int, dict[int, float]]:
    """The groups, one pair after the other: by their first member, the scores of the others."""
    scores = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    left, expected = list(map(int, order)), {}
    while left:
        first, *rest = left
        others = {other: float(scores[first, other]) for other in rest if scores[first, other] >= threshold}
        if others:
            expected[first] = others
        left = [other for other in rest if other not in others]
    return expected


def as_dict(found: list[Group]) -> dict[int, dict[int, float]]:
    pairs = [(group.numbers.tolist(), group.scores.tolist()) for group in found]
    for numbers, scores in pairs:
        assert scores[0] == 1
        assert scores[1:] == sorted(scores[1:], reverse=True)
        assert len(numbers) == len(scores) > 1
    return {numbers[0]: dict(zip(numbers[1:], scores[1:], strict=True)) for numbers, scores in pairs}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dimensions", [2, 16, 200])
def test_groups_are_those_of_the_rule(seed: int, dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that these few vectors are many blocks.
    monkeypatch.setattr(groups_module, "ROWS", 7 + seed)
    monkeypatch.setattr(groups_module, "COLUMNS", 16)
    vectors = clustered(300, dimensions, seed)
    order = np.random.default_rng(seed).permutation(300)
    # Between two cosines, so that no rounding decides.
    cosines = np.unique((vectors.astype(np.float64) @ vectors.T.astype(np.float64)).round(6))
    above = cosines[cosines > 0.95][0]
    threshold = float(above + cosines[cosines < above][-1]) / 2

    actual = as_dict(find_groups(vectors, order, threshold))

    expected = by_the_rule(vectors, order, threshold)
    assert {first: set(others) for first, others in actual.items()} == {
        first: set(others) for first, others in expected.items()
    }
    for first, others in actual.items():
        assert others == pytest.approx(expected[first], abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_vectors(count: int) -> None:
    vectors = np.array([direction("a")] * count, np.float32).reshape(count, 16)

    found = find_groups(vectors, np.arange(count), 1.0)

    assert as_dict(found) == ({0: {1: 1.0}} if count == 2 else {})


def test_a_chain_is_not_tied_together() -> None:
    angles = np.arange(0, 90, 5)
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1).astype(np.float32)

    found = find_groups(vectors, np.arange(len(vectors)), float(np.cos(np.radians(6))))

    assert [group.numbers.tolist() for group in found] == [[n, n + 1] for n in range(0, 18, 2)]


def test_very_many_copies_need_no_more_memory_than_others() -> None:
    copies = np.repeat(direction("a", 64)[None], 12_000, axis=0)
    tracemalloc.start()
    try:
        (group,) = find_groups(copies, np.arange(len(copies))[::-1], 0.99)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert sorted(group.numbers.tolist()) == list(range(12_000))
    assert group.numbers[0] == 11_999
    # A list of all pairs would have a thousand times as much.
    assert peak < 100e6


def test_progress_ends_with_all_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "ROWS", 10)
    seen: list[int] = []

    find_groups(clustered(95, 8, 1), np.arange(95), 0.97, seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == 95
