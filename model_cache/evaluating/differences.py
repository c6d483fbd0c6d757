"""Captions and pictures that models answer differently; of a single model, those that it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_cache.evaluating.classification import Classification
from model_cache.evaluating.dataset import LabeledPictures
from model_cache.evaluating.retrieval import Direction, RetrievalData


@dataclass(frozen=True)
class CaptionAnswers:
    """A caption, its own pictures, and for each model the place of the best of them and what came first."""

    caption: str
    own: Sequence[str]
    ranks: Sequence[int]
    first: Sequence[str]


@dataclass(frozen=True)
class PictureAnswers:
    """A picture, its class, and the class that each model gives it."""

    picture: str
    label: str
    answers: Sequence[str]


def caption_differences(
    data: RetrievalData, models: Sequence[Direction], count: int
) -> tuple[list[CaptionAnswers], int]:
    """The captions whose ranks differ most, at most `count`, and how many differ at all.

    Ranks are compared by their reciprocals: from 1 to 2 is more than from 50 to 100.
    """
    reciprocal = np.stack([1 / model.ranking.ranks for model in models])
    best = reciprocal.max(axis=0) if len(models) > 1 else np.ones(len(data.captions))
    spread = best - reciprocal.min(axis=0)
    order = np.argsort(-spread, kind="stable")
    chosen = [
        CaptionAnswers(
            data.captions[index],
            [data.pictures[picture] for picture in data.pictures_of[index]],
            [int(model.ranking.ranks[index]) for model in models],
            [data.pictures[model.ranking.top[index, 0]] for model in models],
        )
        for index in order[:count]
        if spread[index] > 0
    ]
    return chosen, int((spread > 0).sum())


def picture_differences(
    labeled: LabeledPictures, models: Sequence[Classification], count: int
) -> tuple[list[PictureAnswers], int]:
    """The first `count` pictures that models put into different classes, and how many there are."""
    answers = np.stack([model.ranking.top[:, 0] for model in models])
    right = np.array([index for _, index in labeled.rows])
    others = answers if len(models) > 1 else np.vstack([answers, right])
    (differing,) = (others != others[0]).any(axis=0).nonzero()
    chosen = [
        PictureAnswers(
            labeled.rows[index][0],
            labeled.classes[right[index]],
            [labeled.classes[model_answers[index]] for model_answers in answers],
        )
        for index in differing[:count]
    ]
    return chosen, len(differing)
