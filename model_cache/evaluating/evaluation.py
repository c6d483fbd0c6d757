"""The figures of several models on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clip_embeddings.config import Settings
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.engine.zero_shot import label_vectors, prompts
from model_cache.evaluating.classification import Classification, classify
from model_cache.evaluating.collecting import Collected, collect
from model_cache.evaluating.dataset import LabeledPictures, Pairs, Problem
from model_cache.evaluating.embedders import Cost, Embedder
from model_cache.evaluating.errors import EvaluationError
from model_cache.evaluating.retrieval import (
    Comparison,
    Retrieval,
    RetrievalData,
    compare,
    retrieval_data,
    retrieve,
)
from model_cache.evaluating.vector_cache import VectorCache


@dataclass(frozen=True)
class ModelFigures:
    """The figures of one model, on pairs, on labeled pictures, or on both."""

    embedder: Embedder
    text_cost: Cost
    picture_cost: Cost
    retrieval: Retrieval | None = None
    classification: Classification | None = None
    # Beside float32: captions to pictures, pictures to captions. Empty without pairs, without a float32 model
    # of the same space, and for that model itself.
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The figures of all models, and what they were measured on, without what cannot be read."""

    models: Sequence[ModelFigures]
    pairs: RetrievalData | None
    # Where the pictures of `pairs` are.
    folder: Path | None
    labeled: LabeledPictures | None
    templates: tuple[str, ...]
    problems: Sequence[Problem]


def evaluate(
    embedders: Sequence[Embedder],
    pairs: Pairs | None,
    labeled: LabeledPictures | None,
    templates: tuple[str, ...],
    settings: Settings,
    cache: VectorCache,
) -> Evaluation:
    """Embed the data with every model, as far as `cache` lacks the vectors, and compute the figures.

    Raises:
        EvaluationError: a model is damaged, or no picture can be read.
    """
    asked = [prompt for label in labeled.classes for prompt in prompts(label, templates)] if labeled else []
    texts = list(dict.fromkeys([*(pairs.captions if pairs else ()), *asked]))
    sets = [(data.folder, data.pictures) for data in (pairs, labeled) if data]
    collected = collect(embedders, texts, sets, settings, cache)
    for keys in collected.pictures:
        if not keys:
            raise EvaluationError(f"No picture can be read; {collected.problems[0]}.")
    problems = [*(pairs.problems if pairs else ()), *collected.problems]
    data = retrieval_data(pairs.rows, collected.texts, collected.pictures[0]) if pairs else None
    if labeled:
        readable = tuple(row for row in labeled.rows if row[0] in collected.pictures[-1])
        labeled = replace(labeled, rows=readable)
    models = [_figures(embedder, data, labeled, asked, collected, cache) for embedder in embedders]
    return Evaluation(
        _with_comparisons(models, data), data, pairs.folder if pairs else None, labeled, templates, problems
    )


def _figures(
    embedder: Embedder,
    data: RetrievalData | None,
    labeled: LabeledPictures | None,
    asked: Sequence[str],
    collected: Collected,
    cache: VectorCache,
) -> ModelFigures:
    def vectors(tower: str, keys: Sequence[bytes]) -> np.ndarray:
        return normalize_rows(cache.vectors(embedder.fingerprints[tower], keys))

    retrieval = classification = None
    if data:
        retrieval = retrieve(data, vectors("text", data.caption_keys), vectors("image", data.picture_keys))
    if labeled:
        asked_vectors = vectors("text", [collected.texts[prompt] for prompt in asked])
        classes = label_vectors(asked_vectors, len(asked) // len(labeled.classes))
        pictures = vectors("image", [collected.pictures[-1][name] for name in labeled.pictures])
        classification = classify(pictures, classes, [index for _, index in labeled.rows])
    picture_keys = [key for keys in collected.pictures for key in keys.values()]
    return ModelFigures(
        embedder,
        cache.cost(embedder.fingerprints["text"], list(collected.texts.values())),
        cache.cost(embedder.fingerprints["image"], picture_keys),
        retrieval,
        classification,
    )


def _with_comparisons(models: Sequence[ModelFigures], data: RetrievalData | None) -> list[ModelFigures]:
    references = {
        model.embedder.space: model
        for model in reversed(models)
        if model.embedder.is_float32 and model.retrieval
    }
    compared = []
    for model in models:
        reference = references.get(model.embedder.space)
        if data and reference and reference is not model and model.retrieval and reference.retrieval:
            comparisons = compare(data, model.retrieval, reference.retrieval, reference.embedder.name)
            model = replace(model, comparisons=comparisons)
        compared.append(model)
    return compared
