"""Search over many vectors in SQLite: time, memory, and agreement with numpy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from clip_embeddings.index.types import Index
from tests.bench.services import kilobytes
from tests.support.entries import entry
from tests.support.indexes import opened_index

DIMENSIONS = 512
BATCH = 500
BEST = 10


def report(rows: int, queries: int) -> str:
    """Fill an index in a temporary folder, query it, and report the cost beside that of numpy on a matrix."""
    rng = np.random.default_rng(0)
    vectors = _directions(rng, rows)
    query_vectors = _directions(rng, queries)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photos.sqlite")
        with opened_index(f"sqlite://{path}") as writer:
            fill = _seconds(lambda: _fill(writer, vectors))
            size = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
            with opened_index(f"sqlite://{path}") as index:
                return _measured(index, writer, vectors, query_vectors, fill, size)


def _measured(
    index: Index,
    writer: Index,
    vectors: np.ndarray,
    queries: np.ndarray,
    fill: float,
    size: float,
) -> str:
    rss_before = _rss()
    load = _seconds(lambda: index.query(queries[0], "s", BEST))
    rss_after = _rss()
    warm: list[float] = []
    numpy_only: list[float] = []
    tenth: list[float] = []
    hundredth: list[float] = []
    mismatches = 0
    cpu = 0.0
    # In turn, so that a drift of the machine affects all of them alike.
    for query in queries:
        cpu -= time.process_time()
        started = time.perf_counter()
        hits = index.query(query, "s", BEST)
        warm.append(time.perf_counter() - started)
        cpu += time.process_time()
        started = time.perf_counter()
        scores = vectors @ query
        best = np.argpartition(-scores, BEST)[:BEST]
        best = best[np.argsort(-scores[best])]
        numpy_only.append(time.perf_counter() - started)
        tenth.append(_seconds(partial(index.query, query, "s", BEST, prefix="0/")))
        hundredth.append(_seconds(partial(index.query, query, "s", BEST, prefix="0/77")))
        mismatches += [hit.entry.name for hit in hits] != [_name(int(row)) for row in best]
    after_write = [_query_after_write(index, writer, query) for query in queries[:50]]
    equal = len(queries) - mismatches
    cpu_ms = cpu / len(queries) * 1000
    rows, p50, p95 = len(vectors), *np.percentile(warm, (50, 95)) * 1000
    lines = [
        f"{rows:,} x {DIMENSIONS} in SQLite: {rows / fill:,.0f} rows/s written, {size:.0f} MB on disk",
        f"  first query {load:.2f} s, which reads every vector;"
        f" {rss_after - rss_before:.0f} MB more resident,"
        f" {rss_after:.0f} MB in all (of which the report's own copy is about as much)",
        f"  warm query          p50 {p50:.2f} ms, p95 {p95:.2f} ms; {cpu_ms:.2f} ms of CPU",
        f"  bare numpy          p50 {_ms(numpy_only, 50)}, p95 {_ms(numpy_only, 95)}",
        f"  a tenth by prefix   p50 {_ms(tenth, 50)}, p95 {_ms(tenth, 95)}",
        f"  a hundredth         p50 {_ms(hundredth, 50)}, p95 {_ms(hundredth, 95)}",
        f"  after another write p50 {_ms(after_write, 50)}, p95 {_ms(after_write, 95)}",
        f"{'OK   ' if p50 < 10 else 'SHORT'} p50 {p50:.2f} ms (under 10)",
        f"{'SHORT' if mismatches else 'OK   '} {equal} of {len(queries)} answers are numpy's",
    ]
    return "\n".join(lines)


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` random unit vectors."""
    vectors = rng.standard_normal((count, DIMENSIONS), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _name(row: int) -> str:
    return f"{row % 10}/{row}"


def _fill(index: Index, vectors: np.ndarray) -> None:
    for start in range(0, len(vectors), BATCH):
        batch = range(start, min(len(vectors), start + BATCH))
        index.upsert([entry(_name(row), vector=vectors[row]) for row in batch])


def _query_after_write(index: Index, writer: Index, query: np.ndarray) -> float:
    """Seconds of a query after another connection has changed the index."""
    writer.upsert([entry("9/new", vector=query)])
    return _seconds(partial(index.query, query, "s", BEST))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ms(seconds: list[float], percentile: int) -> str:
    return f"{np.percentile(seconds, percentile) * 1000:.2f} ms"


def _rss() -> float:
    return kilobytes(Path("/proc/self/status"), "VmRSS") / 1000
