"""Compares the divisions of the CPUs among runs of a model: threads of a run, and runs at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.manifest import load_manifest
from clip_embeddings.engine.session import open_graph, run_session


def compare(folder: Path, seconds: float, rounds: int) -> str:
    """Items per second, CPU milliseconds per item and milliseconds per run of each division."""
    cpus = usable_cpus()
    # Runs at once, and CPU threads of each.
    divisions = sorted({(1, 1), (cpus, 1), (1, cpus), (cpus, cpus)})
    measured: dict[tuple[str, int, int], list[tuple[float, float, float]]] = {}
    runs = {threads: _runs(folder, threads) for threads in {1, cpus}}
    for number in range(rounds + 1):
        for at_once, threads in divisions:
            for name, (items, run) in runs[threads].items():
                figures = _measure(run, items, at_once, seconds)
                if number:
                    measured.setdefault((name, at_once, threads), []).append(figures)
    lines = [f"{cpus} CPUs: items a second, CPU ms an item, ms a run (best of {rounds})"]
    for (name, at_once, threads), figures_of in sorted(measured.items()):
        rate, cpu, wall = max(figures_of)
        lines.append(f"  {name:10} {at_once} at once x {threads} threads {rate:8.1f} {cpu:7.2f} {wall:7.1f}")
    return "\n".join(lines)


def _runs(folder: Path, threads: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """By name: the number of items of a run, and what runs them."""
    towers = load_manifest(folder, ("text", "image")).towers
    text = open_graph(folder / towers["text"].files[0].path, threads)
    image = open_graph(folder / towers["image"].files[0].path, threads)
    tokens = np.full((16, 7), 5, np.int64)
    pixels = np.random.default_rng(0).random((4, 3, 224, 224), np.float32)
    return {
        "1 text": (1, lambda: run_session(text, tokens[:1])),
        "16 texts": (16, lambda: run_session(text, tokens)),
        "1 image": (1, lambda: run_session(image, pixels[:1])),
        "4 images": (4, lambda: run_session(image, pixels)),
    }


def _measure(
    run: Callable[[], object], items: int, at_once: int, seconds: float
) -> tuple[float, float, float]:
    """Items per second, CPU milliseconds per item, milliseconds per run."""
    end = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            run()
            count += 1
        return count

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        count = sum(pool.map(client, range(at_once)))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    return count * items / elapsed, cpu / count / items * 1000, elapsed * at_once / count * 1000
