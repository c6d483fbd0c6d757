"""Do two model runs at once finish sooner than one at a time with all CPUs?"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.model import load_model
from clip_embeddings.semaphore import FairSemaphore
from tests.bench import calls

CLIENTS = 2


def compare(folder: Path, seconds: float, rounds: int) -> str:
    """Runs per second and CPU milliseconds per run of two clients, for each way to share the CPUs."""
    cpus = usable_cpus()
    ways = {(1, cpus), (2, max(1, cpus // 2)), (2, cpus)}
    found: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    work = [(*way, *item) for way in sorted(ways) for item in _work(folder, *way).items()]
    for number in range(rounds + 1):
        for width, threads, name, run in work:
            measured = _clients(run, seconds)
            if number:
                found.setdefault((name, width, threads), []).append(measured)
    lines = [f"{CLIENTS} clients, {cpus} CPUs: runs a second, CPU ms a run (best of {rounds})"]
    for (name, width, threads), pairs in sorted(found.items()):
        rate, cpu = max(rate for rate, _ in pairs), min(cpu for _, cpu in pairs)
        lines.append(f"  {name:12} {width} at once x {threads} threads  {rate:7.1f}  {cpu:7.1f}")
    return "\n".join(lines)


def _work(folder: Path, width: int, threads: int) -> dict[str, Callable[[], object]]:
    model = load_model(folder, ("text", "image"), threads=threads, run_slots=FairSemaphore(width, CLIENTS))
    text, image = model.text.get(), model.image.get()
    pixels = image.pixels(Image.new("RGB", (640, 480), "teal"))
    return {
        "short text": lambda: text.embed([calls.SHORT_TEXT]),
        "32 texts": lambda: text.embed([calls.SHORT_TEXT] * 32),
        "image": lambda: image.embed([pixels]),
    }


def _clients(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Runs per second, and milliseconds of CPU per run."""
    end = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            run()
            count += 1
        return count

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(CLIENTS) as pool:
        count = sum(pool.map(client, range(CLIENTS)))
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1000
