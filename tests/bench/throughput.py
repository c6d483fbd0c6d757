"""Requests a second from many clients, on one CPU and on two, beside services built on torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clip_embeddings.cpus import usable_cpus
from tests.bench import environments, machine, peer_models, peer_services, services, weights
from tests.bench.load import Load, drive, require_wrk
from tests.bench.measure import Progress, block
from tests.bench.peer_services import LARGE, PHOTO, TEXT
from tests.bench.services import Payload, Running, Service

OURS = "this project, int8"
OPEN_CLIP = "FastAPI + open_clip"
INFINITY = "infinity-emb"

# A kind of items, the request, and from how many clients it comes.
Request = tuple[str, Payload, Sequence[int]]


@dataclass(frozen=True)
class Row:
    """One measurement: a service on the first `cpus` CPUs."""

    service: str
    items: str
    cpus: int
    load: Load


def report(progress: Progress, *, quick: bool) -> str:
    """The machine, a table, and one line for each goal."""
    require_wrk()
    described = machine.describe()
    seconds, rounds = (2, 1) if quick else (6, 3)
    rows: list[Row] = []
    alone: dict[str, float] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as logs:
        for name, service, requests in _plan(progress):
            for cpus in (1, 2) if name == OURS else (2,):
                if cpus > (os.cpu_count() or 1):
                    continue
                pinned = replace(service, cpus=tuple(range(cpus)))
                try:
                    with services.running(pinned, Path(logs)) as server:
                        server.wait_for_reply(requests[0][1])
                        if name == OURS:
                            alone |= _alone(server, requests, 10 if quick else 50)
                        rows += _rows(server, name, requests, cpus, (seconds, rounds), progress)
                except RuntimeError as error:
                    notes.append(f"{name}: {' '.join(str(error).split())[-300:]}")
    return "\n".join([described, "", _table(rows), *notes, "", *verdicts(rows, alone)])


def _alone(server: Running, requests: Sequence[Request], count: int) -> dict[str, float]:
    """CPU milliseconds of a request that nothing else runs beside, by kind of item."""
    milliseconds = {}
    for items, payload, _ in requests:
        block(server, payload, 10)
        milliseconds[items] = block(server, payload, count).mean_cpu * 1000
    return milliseconds


def _rows(
    server: Running,
    name: str,
    requests: Sequence[Request],
    cpus: int,
    timing: tuple[int, int],
    progress: Progress,
) -> Iterator[Row]:
    for items, payload, clients in requests:
        for number in clients:
            progress(f"{name}, {cpus} CPUs, {items}, {number} clients")
            yield Row(name, items, cpus, drive(server, payload, number, *timing, _generator_cpus(cpus)))


def _plan(progress: Progress) -> Iterator[tuple[str, Service, list[Request]]]:
    """The services, each with what is sent to it and from how many clients."""
    folder, build = weights.baked("int8"), weights.BUILD / "staged" / "int8"
    text, image = (
        services.staged(
            f"{OURS}, {tower}",
            f"embed_{tower}",
            folder,
            build,
            MEMORY_LIMIT=weights.deployed_memory(f"embed_{tower}", folder, usable_cpus()),
        )
        for tower in ("text", "image")
    )
    payloads = peer_services.native_payloads()
    yield OURS, text, [(TEXT, payloads[TEXT], (1, 16, 64))]
    yield OURS, image, [(PHOTO, payloads[PHOTO], (1, 8)), (LARGE, payloads[LARGE], ())]
    fastapi = services.fastapi(weights.checkpoint())
    yield OPEN_CLIP, fastapi, [(TEXT, payloads[TEXT], (1, 16)), (PHOTO, payloads[PHOTO], (1, 8))]
    if python := environments.installed("infinity"):
        infinity = peer_services.infinity(python, peer_models.hugging_face(progress))
        payloads = peer_services.infinity_payloads()
        yield INFINITY, infinity, [(TEXT, payloads[TEXT], (1, 16, 64)), (PHOTO, payloads[PHOTO], (1, 8))]


def _generator_cpus(cpus: int) -> tuple[int, ...]:
    """Where wrk runs: beside the server's CPUs if there are more, else anywhere."""
    return tuple(range(cpus, os.cpu_count() or 1))


def _table(rows: Sequence[Row]) -> str:
    header = ("", "CPUs", "clients", "requests/s", "p50 ms", "p99 ms", "CPU ms", "wrk CPUs", "not 200")
    lines = [
        (
            f"{row.items}, {row.service}",
            str(row.cpus),
            str(row.load.clients),
            f"{row.load.rate:.1f}",
            f"{row.load.p50:.1f}",
            f"{row.load.p99:.1f}",
            f"{row.load.cpu_ms:.1f}",
            f"{row.load.generator:.2f}",
            row.load.refused,
        )
        for row in rows
    ]
    return machine.markdown([header, *lines])


def verdicts(rows: Sequence[Row], alone: Mapping[str, float]) -> list[str]:
    """One line for each goal: whether it is reached, and the measured figure.

    `alone`: CPU milliseconds of a request that nothing else runs beside, by kind of item.
    """
    found = {(row.service, row.items, row.cpus, row.load.clients): row.load for row in rows}
    lines = []

    def goal(reached: bool, sentence: str) -> None:
        lines.append(f"{'OK   ' if reached else 'SHORT'} {sentence}")

    def ratio(label: str, least: float, top: Load | None, bottom: Load | None) -> None:
        if top and bottom:
            measured = _answered(top) / _answered(bottom)
            goal(measured >= least, f"{label}: {measured:.1f} times (at least {least:g})")
        else:
            lines.append(f"  ?   {label}: not measured here")

    sixteen, many = found.get((OURS, TEXT, 2, 16)), found.get((OURS, TEXT, 2, 64))
    ratio(f"texts of 16 clients to {OPEN_CLIP}", 20, sixteen, found.get((OPEN_CLIP, TEXT, 2, 16)))
    ratio(f"texts of 64 clients to {INFINITY}", 3, many, found.get((INFINITY, TEXT, 2, 64)))
    photos = found.get((OURS, PHOTO, 2, 8)), found.get((OURS, PHOTO, 1, 8))
    ratio("photos of 8 clients on two CPUs to one CPU", 1.7, *photos)
    for items, most in ((TEXT, 8), (PHOTO, 42), (LARGE, 70)):
        if items in alone:
            goal(alone[items] <= most, f"{items} alone: {alone[items]:.1f} ms of CPU each (at most {most})")
    for load in filter(None, (sixteen, many)):
        cpu = load.cpu_ms
        goal(cpu <= 4, f"texts of {load.clients} clients: {cpu:.1f} ms of CPU each (at most 4)")
    if sixteen:
        tail = sixteen.p99 / sixteen.p50
        goal(tail < 2.5, f"texts of 16 clients: p99 is {tail:.2f} times p50 (below 2.5)")
    strange = sorted(
        {row.load.refused for row in rows if set(row.load.codes) - {200, 429} or row.load.broken}
    )
    goal(not strange, f"nothing but 200 and 429{': ' + '; '.join(strange) if strange else ''}")
    return lines


def _answered(load: Load) -> float:
    """Requests a second that got 200."""
    return load.rate * load.codes.get(200, 0) / max(1, sum(load.codes.values()))
