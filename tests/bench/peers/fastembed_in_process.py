"""Measures fastembed, which is a library: one tower in this process. Prints one line of JSON.

Arguments: text or image; the model's folder; the seconds and the clients of the loads; the items, which
are a text or paths of images.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path


def main(tower: str, folder: str, seconds: str, clients: str, *items: str) -> None:
    if tower == "text":
        from fastembed import TextEmbedding

        model = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=folder)
    else:
        from fastembed import ImageEmbedding

        model = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=folder)

    def embed(item: str) -> None:
        (vector,) = model.embed([item])
        assert len(vector) == 512

    embed(items[0])
    first = time.monotonic()
    cpu_ms = [single(embed, item, float(seconds)) for item in items]
    numbers = map(int, clients.split(",")) if float(seconds) else ()
    loads = [together(embed, items[0], number, float(seconds)) for number in numbers]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    megabytes = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    print(json.dumps({"first": first, "cpu_ms": cpu_ms, "loads": loads, "megabytes": megabytes}))


def single(embed, item: str, seconds: float) -> float:
    """CPU milliseconds of an item, embedded again and again for `seconds` after a warm-up."""
    for _ in range(5):
        embed(item)
    count, started, cpu = 0, time.monotonic(), time.process_time()
    while not count or time.monotonic() < started + seconds:
        embed(item)
        count += 1
    return (time.process_time() - cpu) / count * 1000


def together(embed, item: str, clients: int, seconds: float) -> list[float]:
    """Items a second, and milliseconds until half and 99 of 100 are done: threads that embed `item`."""
    end = time.monotonic() + seconds

    def client(_: int) -> list[float]:
        times = []
        while (started := time.monotonic()) < end:
            embed(item)
            times.append((time.monotonic() - started) * 1000)
        return times

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        times = sorted(chain.from_iterable(pool.map(client, range(clients))))
    rate = len(times) / (time.monotonic() - started)
    return [rate, times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]]


main(*sys.argv[1:])
