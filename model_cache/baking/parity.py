"""The parity gate: the baked towers, run by the serving engine, against the model itself on PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from clip_embeddings.engine.model import normalize_rows

# float32 must be the model's own vectors; int8 must be close enough to rank alike.
FP32_MINIMUM = 0.99999
INT8_MEAN, INT8_MINIMUM = 0.995, 0.99

T = TypeVar("T")


@dataclass(frozen=True)
class Parity:
    """Figures of one tower in one precision. Milliseconds are per item, one item at a time."""

    items: int
    min_cosine: float
    mean_cosine: float
    megabytes: float
    load_ms: float
    ms_per_item: float

    def passes(self, precision: str) -> bool:
        """Whether vectors of this quality may be called `precision` without being asked for by name."""
        if precision == "fp32":
            return self.min_cosine >= FP32_MINIMUM
        return self.mean_cosine >= INT8_MEAN and self.min_cosine >= INT8_MINIMUM


def reference(encode: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T]) -> np.ndarray:
    """The model's own vectors of `items`: (n, d) float32, L2-normalised."""
    with torch.no_grad():
        parts = [encode(items[start : start + 16]).float() for start in range(0, len(items), 16)]
    return normalize_rows(torch.cat(parts).numpy())


def compare(
    reference: np.ndarray,
    items: Sequence[T],
    open_tower: Callable[[], Callable[[Sequence[T]], np.ndarray]],
    graph: Path,
) -> Parity:
    """Open a tower, embed `items` in one call, then time single items of it."""
    started = time.perf_counter()
    embed = open_tower()
    loaded = time.perf_counter()
    vectors = normalize_rows(embed(items))
    cosines = (vectors * reference).sum(axis=1)
    return Parity(
        items=len(items),
        min_cosine=round(float(cosines.min()), 7),
        mean_cosine=round(float(cosines.mean()), 7),
        megabytes=round(sum(path.stat().st_size for path in (graph, graph.with_suffix(".data"))) / 1e6, 1),
        load_ms=round((loaded - started) * 1000),
        ms_per_item=round(_median_ms(embed, items[:15]), 2),
    )


def _median_ms(embed: Callable[[Sequence[T]], np.ndarray], items: Sequence[T]) -> float:
    times = []
    for item in items:
        started = time.perf_counter()
        embed([item])
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def table(rows: Sequence[tuple[str, str, Parity]], chosen: dict[str, str]) -> str:
    """The figures as text: tower, precision, parity, and which precision was taken."""
    head = "tower  precision   min cosine  mean cosine      MB  load ms  ms/item"
    lines = [
        f"{tower:6} {precision:10} {p.min_cosine:11.7f} {p.mean_cosine:12.7f} {p.megabytes:7.1f} "
        f"{p.load_ms:8.0f} {p.ms_per_item:8.2f}{'  taken' if chosen[tower] == precision else ''}"
        for tower, precision, p in rows
    ]
    return "\n".join([head, *lines])
