"""The figures as a table for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_cache.evaluating.classification import Classification
from model_cache.evaluating.evaluation import Evaluation, ModelFigures
from model_cache.evaluating.metrics import RECALL_AT, Figure
from model_cache.evaluating.retrieval import Comparison, Direction

# Problems that the terminal lists; --json and the page have all.
LISTED_PROBLEMS = 10


@dataclass(frozen=True)
class Section:
    """A table: its title, the names of its columns, and a row for each model, its name first."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def sections(evaluation: Evaluation) -> list[Section]:
    """The figures as tables. Shares are in percent, with the interval of 95 % behind them."""
    models, pairs, labeled = evaluation.models, evaluation.pairs, evaluation.labeled
    tables = []
    if pairs:
        counts = f"{len(pairs.captions):,} captions, {len(pairs.pictures):,} pictures"
        head = ["R@1", "R@5", "R@10", "median rank", "top 10 as float32", "R@1 lost"]
        for index, title in enumerate(("captions find pictures", "pictures find captions")):
            rows = [_retrieval_row(model, index) for model in models]
            tables.append(Section(f"{title} ({counts})", head, rows))
    if labeled:
        pictures, classes = len(labeled.rows), len(labeled.classes)
        rows = [
            [name(model), percent(model.classification.top1), percent(model.classification.top5)]
            for model in models
            if model.classification
        ]
        chance = f"chance {1 / classes:.1%}"
        title = f"zero-shot classification ({pictures:,} pictures, {classes:,} classes, {chance})"
        tables.append(Section(title, ["top 1", "top 5"], rows))
    head = ["MB", "a text: ms", "CPU ms", "a picture: ms", "CPU ms"]
    tables.append(Section("cost, in batches", head, [_cost_row(model) for model in models]))
    return tables


def table(evaluation: Evaluation) -> str:
    """The figures for a terminal."""
    blocks = [f"{one.title}\n{aligned([['', *one.head], *one.rows])}" for one in sections(evaluation)]
    if evaluation.problems:
        listed = [f"  {problem}" for problem in evaluation.problems[:LISTED_PROBLEMS]]
        more = len(evaluation.problems) - len(listed)
        listed += [f"  and {more:,} more: --json lists all"] if more else []
        blocks.append("\n".join([f"left out: {len(evaluation.problems):,}", *listed]))
    return "\n\n".join(blocks)


def name(model: ModelFigures) -> str:
    """A model's name with its precision."""
    return f"{model.embedder.name} {model.embedder.precision}"


def percent(figure: Figure) -> str:
    """A share in percent, with its interval."""
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def directions(model: ModelFigures) -> tuple[Direction, ...]:
    """Captions to pictures, then pictures to captions; nothing without pairs."""
    retrieval = model.retrieval
    return (retrieval.text_to_image, retrieval.image_to_text) if retrieval else ()


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"  {first:{widths[0]}}", *cells]).rstrip())
    return "\n".join(lines)


def _retrieval_row(model: ModelFigures, index: int) -> list[str]:
    direction = directions(model)[index]
    median = direction.median_rank
    compared = model.comparisons[index] if model.comparisons else None
    return [
        name(model),
        *(percent(direction.recall[k]) for k in RECALL_AT),
        f"{median.value:g} [{median.low:g}, {median.high:g}]",
        f"{compared.top10_agreement:.1%}" if compared else "-",
        percent(compared.lost) if compared else "-",
    ]


def _cost_row(model: ModelFigures) -> list[str]:
    size = model.embedder.megabytes
    costs = (model.text_cost, model.picture_cost)
    times = [f"{1000 * seconds:.2f}" for cost in costs for seconds in (cost.seconds, cost.cpu_seconds)]
    return [name(model), "-" if size is None else f"{size:.0f}", *times]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as values for JSON. Shares are from 0 to 1."""
    pairs, labeled = evaluation.pairs, evaluation.labeled
    return {
        "pairs": {"captions": len(pairs.captions), "pictures": len(pairs.pictures)} if pairs else None,
        "classes": {
            "classes": len(labeled.classes),
            "pictures": len(labeled.rows),
            "templates": list(evaluation.templates),
        }
        if labeled
        else None,
        "models": [_model_json(model) for model in evaluation.models],
        "problems": [
            {"item": problem.item, "where": problem.where, "reason": problem.reason}
            for problem in evaluation.problems
        ],
    }


def _model_json(model: ModelFigures) -> dict[str, Any]:
    embedder = model.embedder
    kinds = ("text_to_image", "image_to_text")
    return {
        "name": embedder.name,
        "precision": embedder.precision,
        "space": embedder.space,
        "fingerprints": dict(embedder.fingerprints),
        "megabytes": embedder.megabytes,
        **{kind: _direction_json(one) for kind, one in zip(kinds, directions(model), strict=False)},
        "zero_shot": _classification_json(model.classification) if model.classification else None,
        "compared": {kind: _comparison_json(one) for kind, one in zip(kinds, model.comparisons, strict=False)}
        or None,
        "cost": {
            item: {"ms": round(1000 * cost.seconds, 3), "cpu_ms": round(1000 * cost.cpu_seconds, 3)}
            for item, cost in (("text", model.text_cost), ("picture", model.picture_cost))
        },
    }


def _direction_json(direction: Direction) -> dict[str, Any]:
    recall = {f"recall_at_{k}": _figure_json(figure) for k, figure in direction.recall.items()}
    return {**recall, "median_rank": _figure_json(direction.median_rank)}


def _classification_json(classification: Classification) -> dict[str, Any]:
    return {"top_1": _figure_json(classification.top1), "top_5": _figure_json(classification.top5)}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "reference": comparison.reference,
        "top_10_agreement": comparison.top10_agreement,
        "recall_at_1_lost": _figure_json(comparison.lost),
    }


def _figure_json(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}
