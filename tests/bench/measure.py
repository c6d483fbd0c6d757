"""Samples of the services side by side: taken in turn, so that a drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.services import Call, Running, Service, ask, running

# What is measured, and of which service: ("text", "int8").
Key = tuple[str, str]
Say = Callable[[str], None]


@dataclass
class Samples:
    """Seconds of wall clock, one a sample, and the seconds of CPU of all of them."""

    wall: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def median(self) -> float:
        """The median of the wall clock, in seconds."""
        return median(self.wall)

    @property
    def mean_cpu(self) -> float:
        """Seconds of CPU per sample."""
        return self.cpu / len(self.wall)


def starts(
    services: Mapping[Key, tuple[Service, Call]], rounds: int, logs: Path, say: Say
) -> dict[Key, Samples]:
    """From spawning a process to its first good answer, each time with a new process.

    A first round, not counted, leaves every file in the page cache.
    """
    samples = {key: Samples() for key in services}
    for number in range(rounds + 1):
        for key, (service, call) in services.items():
            say(f"start {number or 'uncounted'}/{rounds}: {service.name}, {key[0]}")
            with running(service, logs) as server:
                seconds = server.first_answer(call)
                if number:
                    samples[key].wall.append(seconds)
                    samples[key].cpu += server.cpu_seconds()
    return samples


def requests(
    servers: Mapping[Key, tuple[Running, Call]], blocks: int, per_block: int, say: Say
) -> dict[Key, Samples]:
    """Requests one after the other, in blocks that take turns. The first block is warming up."""
    samples = {key: Samples() for key in servers}
    for number in range(blocks + 1):
        for key, (server, call) in servers.items():
            say(f"{key[0]} {number or 'uncounted'}/{blocks}: {server.name}")
            found = block(server, call, per_block)
            if number:
                samples[key].wall += found.wall
                samples[key].cpu += found.cpu
    return samples


def block(server: Running, call: Call, count: int) -> Samples:
    """`count` requests, one after the other."""
    samples = Samples()
    with closing(server.connect()) as connection:
        before = server.cpu_seconds()
        for _ in range(count):
            started = time.perf_counter()
            response = ask(connection, call)
            samples.wall.append(time.perf_counter() - started)
            if response.status != 200:
                raise RuntimeError(f"{server.name} answered {response.status} to {call.path}")
        samples.cpu = server.cpu_seconds() - before
    return samples


def stages(server: Running, call: Call, count: int) -> dict[str, float]:
    """Milliseconds of each stage in Server-Timing, the median of `count` requests."""
    found: dict[str, list[float]] = {}
    with closing(server.connect()) as connection:
        for _ in range(count):
            header = ask(connection, call).headers["Server-Timing"]
            for part in header.split(", "):
                name, _, milliseconds = part.partition(";dur=")
                found.setdefault(name, []).append(float(milliseconds))
    return {name: median(values) for name, values in found.items()}
