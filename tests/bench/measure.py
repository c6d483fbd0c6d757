"""Measures the services in turn, so that a drift of the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.services import Payload, Running, Service, post, running

# The measurement and the service: ("text", "int8").
Key = tuple[str, str]
# Reports progress with a short text.
Progress = Callable[[str], None]


@dataclass
class Samples:
    """The wall clock seconds of each sample, and the CPU seconds of all samples together."""

    wall: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def median(self) -> float:
        """Median of the wall clock seconds."""
        return median(self.wall)

    @property
    def mean_cpu(self) -> float:
        """CPU seconds per sample."""
        return self.cpu / len(self.wall)


def starts(
    services: Mapping[Key, tuple[Service, Payload]], rounds: int, logs: Path, progress: Progress
) -> dict[Key, Samples]:
    """Time from starting a process to its first successful reply, with a new process for each sample.

    A first round, which is not counted, brings every file into the page cache.
    """
    samples = {key: Samples() for key in services}
    for number in range(rounds + 1):
        for key, (service, payload) in services.items():
            progress(f"start {number or 'uncounted'}/{rounds}: {service.name}, {key[0]}")
            with running(service, logs) as server:
                seconds = server.wait_for_reply(payload)
                if number:
                    samples[key].wall.append(seconds)
                    samples[key].cpu += server.cpu_seconds()
    return samples


def requests(
    servers: Mapping[Key, tuple[Running, Payload]], blocks: int, per_block: int, progress: Progress
) -> dict[Key, Samples]:
    """Time of requests one after the other, in blocks that take turns. The first block is a warm-up."""
    samples = {key: Samples() for key in servers}
    for number in range(blocks + 1):
        for key, (server, payload) in servers.items():
            progress(f"{key[0]} {number or 'uncounted'}/{blocks}: {server.name}")
            counted = block(server, payload, per_block)
            if number:
                samples[key].wall += counted.wall
                samples[key].cpu += counted.cpu
    return samples


def block(server: Running, payload: Payload, count: int) -> Samples:
    """Time of `count` requests, one after the other."""
    samples = Samples()
    with closing(server.connect()) as connection:
        before = server.cpu_seconds()
        for _ in range(count):
            started = time.perf_counter()
            response = post(connection, payload)
            samples.wall.append(time.perf_counter() - started)
            if response.status != 200:
                raise RuntimeError(f"{server.name} answered {response.status} to {payload.path}")
        samples.cpu = server.cpu_seconds() - before
    return samples


def stages(server: Running, payload: Payload, count: int) -> dict[str, float]:
    """Milliseconds of each stage in Server-Timing, the median of `count` requests."""
    milliseconds: dict[str, list[float]] = {}
    with closing(server.connect()) as connection:
        for _ in range(count):
            header = post(connection, payload).headers["Server-Timing"]
            for part in header.split(", "):
                name, _, duration = part.partition(";dur=")
                milliseconds.setdefault(name, []).append(float(duration))
    return {name: median(values) for name, values in milliseconds.items()}
