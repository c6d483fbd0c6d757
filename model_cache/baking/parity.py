"""Compares baked towers, run by the serving engine, with the model's own implementation on PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from clip_embeddings.engine.model import normalize_rows

# Cosines to PyTorch's vectors. float32 must give the same vectors; int8 must be close enough to rank alike.
FP32_MINIMUM = 0.99999
INT8_MEAN, INT8_MINIMUM = 0.995, 0.99

# Items in one run of PyTorch.
REFERENCE_BATCH = 16
# Items that are embedded one by one to measure the time per item.
TIMED_ITEMS = 15

T = TypeVar("T")


@dataclass(frozen=True)
class Parity:
    """Figures of one tower in one precision."""

    # The number of items compared.
    items: int
    min_cosine: float
    mean_cosine: float
    megabytes: float
    load_ms: float
    # The median of single items.
    ms_per_item: float

    def passes(self, precision: str) -> bool:
        """Whether vectors of this quality are accepted for `precision` under `--precision auto`."""
        if precision == "fp32":
            return self.min_cosine >= FP32_MINIMUM
        return self.mean_cosine >= INT8_MEAN and self.min_cosine >= INT8_MINIMUM


def reference_vectors(encode: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T]) -> np.ndarray:
    """The model's own vectors of `items`: (n, d) float32, L2-normalized."""
    with torch.no_grad():
        parts = [
            encode(items[start : start + REFERENCE_BATCH]).float()
            for start in range(0, len(items), REFERENCE_BATCH)
        ]
    return normalize_rows(torch.cat(parts).numpy())


def compare(
    reference: np.ndarray,
    items: Sequence[T],
    open_tower: Callable[[], Callable[[Sequence[T]], np.ndarray]],
    graph: Path,
) -> Parity:
    """Open the tower, embed `items` in one call, then embed some of them one by one for the time per item."""
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
        ms_per_item=round(_median_ms(embed, items[:TIMED_ITEMS]), 2),
    )


def _median_ms(embed: Callable[[Sequence[T]], np.ndarray], items: Sequence[T]) -> float:
    times = []
    for item in items:
        started = time.perf_counter()
        embed([item])
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def choose_precision(requested: str, figures: Mapping[str, Parity]) -> tuple[str, str]:
    """The precision to keep, "fp32" or "int8", and the reason. `requested` is one of these or "auto".

    `figures` maps each precision that was built to its figures.
    """
    if requested == "fp32":
        return "fp32", "as asked"
    int8 = figures["int8"]
    measured = f"cosine to PyTorch is {int8.mean_cosine:.5f} in the mean and {int8.min_cosine:.5f} at least"
    if requested == "int8":
        return "int8", f"as asked; its {measured}" + (
            "" if int8.passes("int8") else ", below what auto accepts"
        )
    if int8.passes("int8"):
        return "int8", f"its {measured}"
    return "fp32", f"because int8 is too coarse here: its {measured}"


def table(rows: Sequence[tuple[str, str, Parity]], chosen: Mapping[str, str]) -> str:
    """The figures as a table for a terminal.

    Args:
        rows: tower, precision and figures.
        chosen: the precision that was kept, by tower.
    """
    head = "tower  precision   min cosine  mean cosine      MB  load ms  ms/item"
    lines = [
        f"{tower:6} {precision:10} {p.min_cosine:11.7f} {p.mean_cosine:12.7f} {p.megabytes:7.1f} "
        f"{p.load_ms:8.0f} {p.ms_per_item:8.2f}{'  taken' if chosen[tower] == precision else ''}"
        for tower, precision, p in rows
    ]
    return "\n".join([head, *lines])
