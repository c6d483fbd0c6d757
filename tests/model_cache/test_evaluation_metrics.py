"""The arithmetic of evaluation: ranks, ties, agreement, and intervals from the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from model_cache.evaluating.differences import CaptionAnswers, caption_differences
from model_cache.evaluating.metrics import Bootstrap, Figure, agreement, rank
from model_cache.evaluating.retrieval import Direction, retrieval_data


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return normalize_rows(vectors)


def test_ranks_are_those_of_a_full_sort() -> None:
    queries, answers = unit_vectors(700, 1), unit_vectors(50, 2)
    right = [[index % 50, (index * 7 + 1) % 50] for index in range(700)]

    ranking = rank(queries, answers, right)

    for index in range(700):
        order = list(np.argsort(-(answers @ queries[index])))
        assert ranking.ranks[index] == 1 + min(order.index(one) for one in right[index])
        assert list(ranking.top[index]) == order[:10]


def test_a_model_that_gives_one_vector_for_everything_finds_nothing() -> None:
    same = np.ones((20, 4), np.float32) / 2

    assert (rank(same, same, [[index] for index in range(20)]).ranks == 20).all()


def test_right_answers_do_not_push_each_other_back() -> None:
    answers = np.eye(3, dtype=np.float32)

    ranking = rank(answers[:1], np.concatenate([answers[:1], answers]), [[0, 1]])

    assert ranking.ranks[0] == 1


def test_agreement_is_the_share_of_common_answers_in_any_order() -> None:
    queries, answers = unit_vectors(5, 1), unit_vectors(30, 2)
    ranking = rank(queries, answers, [[0]] * 5)

    assert agreement(ranking, ranking) == 1
    assert agreement(rank(-queries, answers, [[0]] * 5), ranking) == 0


def test_the_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    hits = np.arange(400) % 4 == 0

    figure = Bootstrap(range(400), 400).mean(hits)

    margin = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert figure.value == 0.25
    assert figure.low == pytest.approx(0.25 - margin, abs=0.01)
    assert figure.high == pytest.approx(0.25 + margin, abs=0.01)


def test_five_captions_of_a_picture_tell_no_more_than_one_if_they_agree() -> None:
    hits = np.arange(100) % 4 == 0

    one = Bootstrap(range(100), 100).mean(hits)
    five = Bootstrap(np.repeat(range(100), 5).tolist(), 100).mean(np.repeat(hits, 5))

    assert (five.low, five.high) == pytest.approx((one.low, one.high))


def test_the_interval_of_a_median_holds_it() -> None:
    figure = Bootstrap(range(101), 101).median(np.arange(1, 102))

    assert figure.value == 51
    assert 35 < figure.low < 51 < figure.high < 67


def test_differences_are_captions_that_two_models_rank_differently_the_top_first() -> None:
    right = [[0], [1], [2]]
    answers = np.eye(3, dtype=np.float32)
    data = retrieval_data(
        [(f"{n}.jpg", f"caption {n}") for n in range(3)],
        {f"caption {n}": b"%d" % n for n in range(3)},
        {f"{n}.jpg": b"%d" % n for n in range(3)},
    )
    # The second model finds the picture of caption 0 first, of 1 second, of 2 last.
    other = np.array([[1, 0, 0], [3, 2, 1], [3, 2, 1]], np.float32)
    models = [Direction({}, Figure(0, 0, 0), rank(queries, answers, right)) for queries in (answers, other)]

    shown, count = caption_differences(data, models, 1)

    assert count == 2
    assert shown == [CaptionAnswers("caption 2", ["2.jpg"], [1, 3], ["2.jpg", "0.jpg"])]


def test_pairs_are_indexed_by_what_they_hold() -> None:
    keys = {"a.jpg": b"1", "copy-of-a.jpg": b"1", "b.jpg": b"2"}
    rows = [("a.jpg", "x"), ("copy-of-a.jpg", "x"), ("b.jpg", "x"), ("b.jpg", "y"), ("absent.jpg", "y")]

    data = retrieval_data(rows, {"x": b"x", "y": b"y"}, keys)

    assert data.pictures == ["a.jpg", "b.jpg"]
    assert data.pictures_of == [[0, 1], [1]]
    assert data.captions_of == [[0], [0, 1]]
