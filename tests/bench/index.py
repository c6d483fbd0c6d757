"""Search over many vectors in SQLite and in PostgreSQL: time to build and to search, recall, memory, disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from clip_embeddings.index.types import Filter, Hit, Index
from tests.bench.services import kilobytes
from tests.support import postgres_server
from tests.support.entries import entry
from tests.support.indexes import opened_index
from tests.support.postgres_server import PostgresServer

DIMENSIONS = 512
BATCH = 500
BEST = 10
# Rows of a cluster: photos of one event, or of one kind of thing.
ROWS_OF_CLUSTER = 200

# Of the server. The graph is built in memory if it fits there: about 2.8 KB a row.
POSTGRES_OPTIONS = {
    "shared_buffers": "2GB",
    "maintenance_work_mem": "5GB",
    "max_parallel_maintenance_workers": "1",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "1h",
}

# What the acceptance of an approximate index is.
MOST_MS, LEAST_RECALL = 15.0, 0.95


# The nearest rows, and the nearest of those that a tenth's prefix leaves: (queries, BEST).
Expected = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """One index. Times are seconds, sizes MB."""

    fill: float
    first: float
    queries: list[float]
    # Of one query, this process and the server together.
    cpu: float
    recall: float
    tenth: list[float]
    tenth_recall: float
    hundredth: list[float]
    after_write: list[float]
    memory: float
    disk: float


def report(rows: int | None = None, *, quick: bool) -> str:
    """Fill an index of each kind with the same vectors, `rows` or 100,000, query both alike: one table."""
    rows = rows or (10_000 if quick else 100_000)
    queries = 50 if quick else 300
    query_vectors = next(clustered_batches(queries, queries, seed=1))[1]
    expected = _exact(rows, query_vectors), _exact(rows, query_vectors, every=10)
    measured = {"SQLite": _sqlite(rows, query_vectors, expected)}
    if postgres_server.programs() is not None:
        measured["PostgreSQL"] = _postgres(rows, query_vectors, expected)
    return _table(rows, measured)


def _sqlite(rows: int, queries: np.ndarray, expected: Expected) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photos.sqlite")
        with opened_index(f"sqlite://{path}") as writer, opened_index(f"sqlite://{path}") as index:
            before = _rss()
            return _measure(
                writer,
                index,
                rows,
                queries,
                expected,
                cpu=time.process_time,
                memory=lambda: _rss() - before,
                disk=lambda: sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6,
            )


def _postgres(rows: int, queries: np.ndarray, expected: Expected) -> Measured:
    with postgres_server.running(**POSTGRES_OPTIONS) as server:
        url = server.index_url()
        with opened_index(url) as writer, opened_index(url) as index:
            return _measure(
                writer,
                index,
                rows,
                queries,
                expected,
                cpu=lambda: time.process_time() + _cpu_seconds(server),
                memory=partial(_proportional_memory, server),
                disk=lambda: float(str(server.run("SELECT pg_database_size('postgres') / 1e6")[0][0])),
            )


def _measure(
    writer: Index,
    index: Index,
    rows: int,
    queries: np.ndarray,
    expected: Expected,
    *,
    cpu: Callable[[], float],
    memory: Callable[[], float],
    disk: Callable[[], float],
) -> Measured:
    started = time.perf_counter()
    with getattr(writer, "bulk_loading", nullcontext)():
        for first_row, vectors in clustered_batches(rows, BATCH):
            writer.upsert(
                [entry(_name(first_row + row), vector=vector) for row, vector in enumerate(vectors)]
            )
    fill = time.perf_counter() - started
    first = _seconds(lambda: index.query(queries[0], "s", BEST))
    plain: list[float] = []
    tenth: list[float] = []
    hundredth: list[float] = []
    matches = matches_of_tenth = 0
    cpu_seconds = 0.0
    # In turn, so that a drift of the machine affects all of them alike.
    for query, best, best_of_tenth in zip(queries, *expected, strict=True):
        cpu_seconds -= cpu()
        started = time.perf_counter()
        hits = index.query(query, "s", BEST).hits
        plain.append(time.perf_counter() - started)
        cpu_seconds += cpu()
        matches += _matches(hits, best)
        started = time.perf_counter()
        hits = index.query(query, "s", BEST, Filter(prefix="0/")).hits
        tenth.append(time.perf_counter() - started)
        matches_of_tenth += _matches(hits, best_of_tenth)
        hundredth.append(_seconds(partial(index.query, query, "s", BEST, Filter(prefix="0/7/"))))
    return Measured(
        fill=fill,
        first=first,
        queries=plain,
        cpu=cpu_seconds / len(queries),
        recall=matches / (BEST * len(queries)),
        tenth=tenth,
        tenth_recall=matches_of_tenth / (BEST * len(queries)),
        hundredth=hundredth,
        after_write=[_query_after_write(index, writer, query) for query in queries[:50]],
        memory=memory(),
        disk=disk(),
    )


def _matches(hits: list[Hit], best: np.ndarray) -> int:
    """How many of the rows `best` are among the hits."""
    return len({hit.entry.name for hit in hits} & {_name(int(row)) for row in best})


def _table(rows: int, measured: dict[str, Measured]) -> str:
    lines = {
        "rows written per second": lambda m: f"{rows / m.fill:,.0f}",
        "build, s": lambda m: f"{m.fill:,.1f}",
        "first query, s": lambda m: f"{m.first:.2f}",
        "query p50 / p95, ms": lambda m: _ms(m.queries),
        "CPU of a query, ms": lambda m: f"{m.cpu * 1000:.2f}",
        "recall@10": lambda m: f"{m.recall:.3f}",
        "a tenth by prefix p50 / p95, ms": lambda m: _ms(m.tenth),
        "a tenth by prefix, recall@10": lambda m: f"{m.tenth_recall:.3f}",
        "a hundredth by prefix p50 / p95, ms": lambda m: _ms(m.hundredth),
        "after another write p50 / p95, ms": lambda m: _ms(m.after_write),
        "memory, MB": lambda m: f"{m.memory:,.0f}",
        "disk, MB": lambda m: f"{m.disk:,.0f}",
    }
    # An exact index needs none.
    verdicts = [_verdict(name, each) for name, each in measured.items() if name != "SQLite"]
    head = [f"| {rows:,} x {DIMENSIONS} | {' | '.join(measured)} |", f"|---{'|---' * len(measured)}|"]
    body = [f"| {name} | {' | '.join(map(show, measured.values()))} |" for name, show in lines.items()]
    return "\n".join([*head, *body, *verdicts])


def _verdict(name: str, measured: Measured) -> str:
    p95 = float(np.percentile(measured.queries, 95)) * 1000
    good = p95 < MOST_MS and measured.recall >= LEAST_RECALL
    return (
        f"{'OK   ' if good else 'SHORT'} {name}: p95 {p95:.2f} ms (under {MOST_MS:g}), "
        f"recall@{BEST} {measured.recall:.3f} (at least {LEAST_RECALL})"
    )


def clustered_batches(rows: int, size: int, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Number of the first row, and (size, DIMENSIONS) float32 unit vectors, the same for every call.

    They are clustered as those of photos are: all have a direction in common, those of a cluster have more,
    and few dimensions hold most of what differs.
    """
    shared = np.random.default_rng(12345)
    spread = (np.arange(1, DIMENSIONS + 1) ** -0.5).astype(np.float32)
    mean = shared.standard_normal(DIMENSIONS).astype(np.float32) * 0.05
    # Queries are near the first clusters, which every number of rows has.
    clusters = 20 if seed else max(20, rows // ROWS_OF_CLUSTER)
    centers = shared.standard_normal((clusters, DIMENSIONS), np.float32) * spread
    rng = np.random.default_rng(seed)
    for start in range(0, rows, size):
        count = min(size, rows - start)
        noise = rng.standard_normal((count, DIMENSIONS), np.float32) * spread
        vectors = mean + centers[rng.integers(0, clusters, count)] + 0.6 * noise
        yield start, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _exact(rows: int, queries: np.ndarray, every: int = 1) -> np.ndarray:
    """(len(queries), BEST): the numbers of the rows with the highest cosine similarity, computed by numpy.

    Args:
        every: only rows whose number is divisible by it.
    """
    best_scores = np.empty((len(queries), 0), np.float32)
    best_rows = np.empty((len(queries), 0), np.int64)
    for start, vectors in clustered_batches(rows, BATCH):
        chosen = np.arange(start, start + len(vectors))
        vectors, chosen = vectors[chosen % every == 0], chosen[chosen % every == 0]
        scores = np.hstack([best_scores, queries @ vectors.T])
        numbers = np.broadcast_to(chosen, (len(queries), len(chosen)))
        numbers = np.hstack([best_rows, numbers])
        order = np.argsort(-scores, axis=1)[:, :BEST]
        best_scores = np.take_along_axis(scores, order, 1)
        best_rows = np.take_along_axis(numbers, order, 1)
    return best_rows


def _name(row: int) -> str:
    """A tenth of the names begins with 0/, a hundredth with 0/7/."""
    return f"{row % 10}/{row // 10 % 10}/{row}"


def _query_after_write(index: Index, writer: Index, query: np.ndarray) -> float:
    """Seconds of a query after another connection has changed the index."""
    writer.upsert([entry("9/new", vector=query)])
    return _seconds(partial(index.query, query, "s", BEST))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ms(seconds: list[float]) -> str:
    p50, p95 = np.percentile(seconds, (50, 95)) * 1000
    return f"{p50:.2f} / {p95:.2f}"


def _rss() -> float:
    return kilobytes(Path("/proc/self/status"), "VmRSS") / 1000


def _cpu_seconds(server: PostgresServer) -> float:
    """CPU time of the server and its present sessions."""
    ticks = 0
    for pid in server.processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _proportional_memory(server: PostgresServer) -> float:
    """Of all processes of the server, with what they share counted once."""
    return sum(kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in server.processes()) / 1000
