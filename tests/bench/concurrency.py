"""Compares two model runs at once with one at a time on all CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.model import load_model
from clip_embeddings.semaphore import FairSemaphore
from tests.bench import payloads

CLIENTS = 2


def compare(folder: Path, seconds: float, rounds: int) -> str:
    """Runs per second and CPU milliseconds per run of two clients, for each division of the CPUs."""
    cpus = usable_cpus()
    # Concurrent runs, and CPU threads of each.
    divisions = {(1, cpus), (2, max(1, cpus // 2)), (2, cpus)}
    measured: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    workloads = [
        (*division, *item) for division in sorted(divisions) for item in _workloads(folder, *division).items()
    ]
    for number in range(rounds + 1):
        for width, threads, name, work in workloads:
            figures = _measure(work, seconds)
            if number:
                measured.setdefault((name, width, threads), []).append(figures)
    lines = [f"{CLIENTS} clients, {cpus} CPUs: runs a second, CPU ms a run (best of {rounds})"]
    for (name, width, threads), pairs in sorted(measured.items()):
        rate, cpu = max(rate for rate, _ in pairs), min(cpu for _, cpu in pairs)
        lines.append(f"  {name:12} {width} at once x {threads} threads  {rate:7.1f}  {cpu:7.1f}")
    return "\n".join(lines)


def _workloads(folder: Path, width: int, threads: int) -> dict[str, Callable[[], object]]:
    model = load_model(folder, ("text", "image"), threads=threads, run_slots=FairSemaphore(width, CLIENTS))
    text, image = model.text.get(), model.image.get()
    pixels = image.pixels(Image.new("RGB", (640, 480), "teal"))
    return {
        "short text": lambda: text.embed([payloads.SHORT_TEXT]),
        "32 texts": lambda: text.embed([payloads.SHORT_TEXT] * 32),
        "image": lambda: image.embed([pixels]),
    }


def _measure(work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Runs per second, and CPU milliseconds per run, of clients that repeat `work` for `seconds`."""
    end = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            work()
            count += 1
        return count

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(CLIENTS) as pool:
        count = sum(pool.map(client, range(CLIENTS)))
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1000
