"""From the start of a process to its first vector: memory warm and disk cold, on one CPU and on two."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, median_low

from tests.bench import (
    cold_disk,
    container_image,
    machine,
    page_cache,
    payloads,
    services,
    start_chart,
    start_parts,
    weights,
)
from tests.bench.measure import Progress
from tests.bench.report import start_verdicts
from tests.bench.services import Payload, Running, Service, running
from tests.bench.start_chart import Bar

FASTAPI = "FastAPI + open_clip"


@dataclass(frozen=True)
class Condition:
    """What a start finds."""

    name: str
    cpus: int
    # Nothing of the disk is in memory.
    cold: bool = False
    # All CPUs but one are taken away as soon as the serving process is forked.
    falls: bool = False


CONDITIONS = (
    Condition("two CPUs", 2),
    Condition("one CPU", 1),
    Condition("two, one from the fork on", 2, falls=True),
    Condition("two CPUs, cold disk", 2, cold=True),
    Condition("one CPU, cold disk", 1, cold=True),
)


@dataclass(frozen=True)
class Start:
    """One start: seconds until the first reply, CPU seconds, MB read, and the stages that were logged."""

    seconds: float
    cpu: float
    megabytes: float
    stages: Mapping[str, float]


# By the name of the service and the condition.
Starts = dict[tuple[str, Condition], list[Start]]


def report(model: Path, progress: Progress, *, quick: bool, svg: Path | None) -> str:
    """The machine, a table, the parts of the starts, and a line for each goal. Writes the chart to `svg`."""
    described = machine.describe()
    conditions = [
        condition
        for condition in CONDITIONS
        if condition.cpus <= len(os.sched_getaffinity(0)) and (page_cache.can_drop() or not condition.cold)
    ]
    image = container_image.make(model, progress)
    fastapi = services.fastapi(weights.checkpoint())
    found = _measure(
        {**image.services, f"{FASTAPI}, text": fastapi, f"{FASTAPI}, image": fastapi},
        conditions,
        (2, 1) if quick else (10, 3),
        progress,
    )
    bars = list(_bars(image.services, found))
    if svg:
        svg.write_text(start_chart.svg(bars), encoding="utf-8")
    notes = [] if page_cache.can_drop() else ["Starts from a cold disk were not measured: that takes root."]
    return "\n\n".join([described, _table(found), *notes, "\n".join(verdicts(found)), start_chart.text(bars)])


def _measure(
    measured: Mapping[str, Service],
    conditions: list[Condition],
    rounds: tuple[int, int],
    progress: Progress,
) -> Starts:
    """Starts of each service in turn, `rounds[0]` times, of FastAPI `rounds[1]` times."""
    first = cold_disk.requests() | {
        f"{FASTAPI}, text": payloads.texts(),
        f"{FASTAPI}, image": payloads.upload(payloads.small_jpeg()),
    }
    found: Starts = {}
    with tempfile.TemporaryDirectory() as logs:
        for condition in conditions:
            # What is in memory is brought there by a first round, which does not count.
            for number in range(condition.cold, rounds[0] + 1):
                for name, service in measured.items():
                    is_fastapi = name.startswith(FASTAPI)
                    # uvicorn does not fork.
                    if is_fastapi and (number > rounds[1] or condition.falls):
                        continue
                    progress(f"{condition.name}, start {number or 'uncounted'}/{rounds[0]}: {name}")
                    start = _start(service, first[name], condition, Path(logs))
                    if number:
                        found.setdefault((name, condition), []).append(start)
    return found


def _start(service: Service, payload: Payload, condition: Condition, logs: Path) -> Start:
    cpus = sorted(os.sched_getaffinity(0))[: condition.cpus]
    if condition.cold:
        page_cache.drop()
    with running(replace(service, cpus=tuple(cpus)), logs) as server:
        if condition.falls:
            _take_cpus_away(server, cpus[0])
        seconds = server.wait_for_reply(payload)
        with server.stopped():
            stages = start_parts.logged_stages(server.log.read_text())
            return Start(seconds, server.cpu_seconds(), server.read_megabytes(), stages)


def _take_cpus_away(server: Running, cpu: int) -> None:
    """Wait for the process that serves, then leave all processes only `cpu`."""
    while len(server.pids()) == 1:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} has ended:\n{server.log.read_text()[-4000:]}")
        time.sleep(0.001)
    for pid in server.pids():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


def _seconds(found: Starts, name: str, condition: Condition) -> float | None:
    starts = found.get((name, condition))
    return median(start.seconds for start in starts) if starts else None


def _table(found: Starts) -> str:
    header = (
        *("process start to the first vector", "empty s", "ours s", "lowest..highest", "above empty s"),
        *("CPU s, empty", "ours", f"{FASTAPI} s", "ratio", "MB read"),
    )
    rows: list[tuple[str, ...]] = []
    for (name, condition), starts in sorted(found.items(), key=lambda item: item[0][0], reverse=True):
        if not name.startswith("embed_"):
            continue
        seconds = [start.seconds for start in starts]
        ours, empty = median(seconds), found["empty", condition]
        base = median(start.seconds for start in empty)
        other = _seconds(found, f"{FASTAPI}, {name.removeprefix('embed_')}", condition)
        megabytes = median(start.megabytes for start in starts)
        rows.append(
            (
                f"{name}, {condition.name}",
                f"{base:.2f}",
                f"{ours:.2f}",
                f"{min(seconds):.2f}..{max(seconds):.2f}",
                f"{ours - base:.2f}",
                f"{median(start.cpu for start in empty):.2f}",
                f"{median(start.cpu for start in starts):.2f}",
                f"{other:.2f}" if other else "",
                f"1/{other / ours:.1f}" if other else "",
                f"{megabytes:.0f}" if condition.cold else "",
            )
        )
    return machine.markdown([header, *rows])


def verdicts(found: Starts) -> list[str]:
    """One line for each goal: whether it is reached, and the measured figure."""
    condition = CONDITIONS[0]
    lines = []
    for tower in ("text", "image"):
        ours, empty = (_seconds(found, name, condition) for name in (f"embed_{tower}", "empty"))
        other = _seconds(found, f"{FASTAPI}, {tower}", condition)
        if ours is None or empty is None or other is None:
            continue
        lines += start_verdicts(f"embed_{tower}", ours - empty, other / ours)
    return lines


def _bars(measured: Mapping[str, Service], found: Starts) -> Iterator[Bar]:
    """The start of median length of each function, except where CPUs are taken away."""
    first = cold_disk.requests()
    shares = {
        name: start_parts.project_share(service, first[name])
        for name, service in measured.items()
        if name != "empty"
    }
    for (name, condition), starts in found.items():
        if name.startswith(FASTAPI) or condition.falls:
            continue
        typical = median_low(start.seconds for start in starts)
        start = next(start for start in starts if start.seconds == typical)
        pinned = replace(measured[name], cpus=tuple(sorted(os.sched_getaffinity(0))[: condition.cpus]))
        if condition.cold:
            page_cache.drop()
            interpreter = start_parts.interpreter_seconds(pinned)
        else:
            interpreter = median(start_parts.interpreter_seconds(pinned) for _ in range(5))
        found_parts = start_parts.parts(start.seconds, interpreter, start.stages, shares.get(name, 0))
        yield Bar(f"{name}, {condition.name}", found_parts)
