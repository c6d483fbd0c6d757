"""Search in both directions between captions and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_cache.evaluating.metrics import RECALL_AT, Bootstrap, Figure, Ranking, agreement, rank


@dataclass(frozen=True)
class RetrievalData:
    """Distinct captions and distinct pictures, and which belong together, as indices."""

    captions: Sequence[str]
    pictures: Sequence[str]
    caption_keys: Sequence[bytes]
    picture_keys: Sequence[bytes]
    pictures_of: Sequence[Sequence[int]]
    captions_of: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Direction:
    """How queries of one kind find answers of the other. Recalls are from 0 to 1, ranks from 1."""

    recall: Mapping[int, Figure]
    median_rank: Figure
    ranking: Ranking


@dataclass(frozen=True)
class Retrieval:
    """Captions that look for pictures, and pictures that look for captions."""

    text_to_image: Direction
    image_to_text: Direction


@dataclass(frozen=True)
class Comparison:
    """A model beside the float32 model `reference` of the same space, for one direction."""

    reference: str
    # Share of the reference's first ten answers that are among the model's own, in any order.
    top10_agreement: float
    # The reference's R@1 minus the model's.
    lost: Figure


def retrieval_data(
    rows: Sequence[tuple[str, str]], text_keys: Mapping[str, bytes], picture_keys: Mapping[str, bytes]
) -> RetrievalData:
    """Index the pairs (picture, caption) whose vectors there are.

    A caption that several pictures have is one query, and right for each of them. Pictures whose files are
    equal are one picture, under the name that comes first.
    """
    captions: dict[str, int] = {}
    keys: dict[bytes, int] = {}
    names: list[str] = []
    together: dict[tuple[int, int], None] = {}
    for picture, caption in rows:
        if picture not in picture_keys or caption not in text_keys:
            continue
        key = picture_keys[picture]
        if key not in keys:
            keys[key] = len(keys)
            names.append(picture)
        together[captions.setdefault(caption, len(captions)), keys[key]] = None
    pictures_of: list[list[int]] = [[] for _ in captions]
    captions_of: list[list[int]] = [[] for _ in keys]
    for caption_index, picture_index in together:
        pictures_of[caption_index].append(picture_index)
        captions_of[picture_index].append(caption_index)
    caption_keys = [text_keys[caption] for caption in captions]
    return RetrievalData(list(captions), names, caption_keys, list(keys), pictures_of, captions_of)


def retrieve(data: RetrievalData, captions: np.ndarray, pictures: np.ndarray) -> Retrieval:
    """The figures of unit vectors of `data.captions` and `data.pictures`: (n, d) and (m, d) float32."""
    return Retrieval(
        _direction(rank(captions, pictures, data.pictures_of), text_bootstrap(data)),
        _direction(rank(pictures, captions, data.captions_of), picture_bootstrap(data)),
    )


def compare(data: RetrievalData, own: Retrieval, reference: Retrieval, name: str) -> tuple[Comparison, ...]:
    """`own` beside the `reference` of that name: captions to pictures, then pictures to captions."""
    return (
        _compare(own.text_to_image, reference.text_to_image, text_bootstrap(data), name),
        _compare(own.image_to_text, reference.image_to_text, picture_bootstrap(data), name),
    )


def text_bootstrap(data: RetrievalData) -> Bootstrap:
    """Resamples the pictures, each with its captions; one of several pictures goes with the first."""
    return Bootstrap([owners[0] for owners in data.pictures_of], len(data.pictures))


def picture_bootstrap(data: RetrievalData) -> Bootstrap:
    """Resamples the pictures."""
    return Bootstrap(range(len(data.pictures)), len(data.pictures))


def _direction(ranking: Ranking, bootstrap: Bootstrap) -> Direction:
    recall = {k: bootstrap.mean(ranking.ranks <= k) for k in RECALL_AT}
    return Direction(recall, bootstrap.median(ranking.ranks), ranking)


def _compare(own: Direction, reference: Direction, bootstrap: Bootstrap, name: str) -> Comparison:
    lost = (reference.ranking.ranks == 1).astype(float) - (own.ranking.ranks == 1)
    return Comparison(name, agreement(own.ranking, reference.ranking), bootstrap.mean(lost))
