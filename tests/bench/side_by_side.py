"""This project beside other services that embed with CLIP: `make bench ARGS=--peers`.

Every service has an environment of its own and runs alone, as it would on a machine of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from clip_embeddings.cpus import usable_cpus
from tests.bench import environments, measure, payloads, peer_models, peer_services, services, weights
from tests.bench.environments import InstallationError
from tests.bench.load import Load, NoReplyError, drive
from tests.bench.measure import Progress
from tests.bench.peer_services import LARGE, PHOTO, TEXT
from tests.bench.services import Payload, Running, Service
from tests.support.photographs import detailed_12mp_jpeg
from tests.support.serving import ROOT, environment

CLIENTS = (1, 16, 64)
# How many requests a Cloud Run instance with one CPU gets at once: one, and deploy.sh's default.
CONCURRENCY = (1, 8)


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    starts: int
    # Requests one after the other, by kind.
    single: Mapping[str, int]
    seconds: int
    rounds: int


QUICK = Effort(1, {TEXT: 10, PHOTO: 5, LARGE: 3}, 3, 1)
FULL = Effort(5, {TEXT: 100, PHOTO: 50, LARGE: 20}, 8, 3)


@dataclass
class Measured:
    """One service. A mapping lacks what could not be measured; `failure` says why."""

    name: str
    versions: str = ""
    # Seconds from the start of the process to the first vector, by kind.
    start: dict[str, float] = field(default_factory=dict)
    # CPU milliseconds of one item, one after the other, by kind.
    cpu_ms: dict[str, float] = field(default_factory=dict)
    # By kind and clients, on all CPUs.
    loads: dict[tuple[str, int], Load] = field(default_factory=dict)
    # By kind and clients, on one CPU.
    one_cpu: dict[tuple[str, int], Load] = field(default_factory=dict)
    # MB of all processes, shared pages counted once, after everything of the kind.
    memory: dict[str, float] = field(default_factory=dict)
    # MB of installed packages, and of the model's files.
    packages: float = 0.0
    model: float = 0.0
    # The --memory setting on Cloud Run by kind, where deploy.sh chooses one.
    settings: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def measure_all(effort: Effort, progress: Progress) -> list[Measured]:
    """Measure every service, one after the other. What fails is noted, and the others go on."""
    peers: tuple[tuple[str, str, Callable[[Measured], None]], ...] = (
        *(
            (f"this project, {label}", "functions", _functions(precision, effort, progress))
            for precision, label in (("int8", "int8"), ("fp32", "float32"))
        ),
        ("fastembed, in process", "fastembed", _fastembed(effort, progress)),
        ("infinity-emb", "infinity", _infinity(effort, progress)),
        ("FastAPI + open_clip", "open_clip", _open_clip(effort, progress)),
        ("FastAPI + transformers", "transformers", _transformers(effort, progress)),
    )
    results = []
    for name, environment_name, run in peers:
        measured = Measured(name)
        results.append(measured)
        try:
            environments.install(environment_name, progress)
            measured.versions = environments.versions(environment_name, _VERSIONS[environment_name])
            measured.packages = environments.megabytes(environment_name)
            run(measured)
        except (InstallationError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            # The first line says what failed, the last one is the end of a log.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            measured.failure = " ... ".join(dict.fromkeys((lines[0][:150], lines[-1].strip()[-150:])))
            progress(f"{name} failed: {measured.failure}")
    return results


_VERSIONS = {
    "functions": ("functions-framework", "onnxruntime", "numpy", "pillow"),
    "fastembed": ("fastembed", "onnxruntime", "numpy", "pillow"),
    "infinity": ("infinity-emb", "torch", "transformers", "numpy", "pillow"),
    "open_clip": ("fastapi", "open_clip_torch", "torch", "pillow"),
    "transformers": ("fastapi", "transformers", "torch", "pillow"),
}


def _functions(precision: str, effort: Effort, progress: Progress) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        folder, build = weights.baked(precision), weights.BUILD / "staged" / precision
        measured.model = _megabytes(folder)
        python = environments.install("functions", progress)
        requests = peer_services.native_payloads()
        for tower, kinds in (("text", (TEXT,)), ("image", (PHOTO, LARGE))):
            name = f"embed_{tower}"
            # The deployed size is that of one CPU; the limit is that of the CPUs here.
            measured.settings[kinds[0]] = weights.deployed_memory(name, folder, 1)
            limit = weights.deployed_memory(name, folder, usable_cpus())
            service = services.staged(name, name, folder, build, MEMORY_LIMIT=limit)
            service = replace(service, python=python)
            _serve(measured, service, {kind: requests[kind] for kind in kinds}, effort, progress)

    return run


def _infinity(effort: Effort, progress: Progress) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        model = peer_models.hugging_face(progress)
        measured.model = _megabytes(model)
        service = peer_services.infinity(environments.install("infinity", progress), model)
        _serve(measured, service, peer_services.infinity_payloads(), effort, progress)

    return run


def _open_clip(effort: Effort, progress: Progress) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        checkpoint = weights.checkpoint()
        measured.model = checkpoint.stat().st_size / 1e6
        service = peer_services.open_clip(environments.install("open_clip", progress), checkpoint)
        _serve(measured, service, peer_services.native_payloads(), effort, progress)

    return run


def _transformers(effort: Effort, progress: Progress) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        model = peer_models.hugging_face(progress)
        measured.model = _megabytes(model)
        service = peer_services.transformers(environments.install("transformers", progress), model)
        _serve(measured, service, peer_services.native_payloads(), effort, progress)

    return run


def _serve(
    measured: Measured, service: Service, requests: Mapping[str, Payload], effort: Effort, progress: Progress
) -> None:
    """Measure what `service` does with `requests`, which are by kind."""
    first = {(kind, service.name): (service, payload) for kind, payload in requests.items() if kind != LARGE}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = Path(folder)
        for (kind, _), samples in measure.starts(first, effort.starts, logs, progress).items():
            measured.start[kind] = samples.median
        server = stack.enter_context(services.running(service, logs))
        server.wait_for_reply(next(iter(requests.values())))
        for kind, payload in requests.items():
            progress(f"{measured.name}: {kind}, one after the other")
            measure.block(server, payload, 5)
            measured.cpu_ms[kind] = measure.block(server, payload, effort.single[kind]).mean_cpu * 1000
            for clients in CLIENTS if kind != LARGE else ():
                progress(f"{measured.name}: {kind}, {clients} clients")
                timing = effort.seconds, effort.rounds
                _drive(measured, measured.loads, (kind, clients), server, payload, timing)
            measured.memory[kind] = server.tree_pss()
        stack.close()
        pinned = replace(service, cpus=(0,))
        generator = tuple(range(1, os.cpu_count() or 1))
        server = stack.enter_context(services.running(pinned, logs))
        server.wait_for_reply(next(iter(requests.values())))
        for kind, payload in requests.items():
            for clients in CONCURRENCY if kind != LARGE else ():
                progress(f"{measured.name}: {kind}, {clients} clients, one CPU")
                timing = effort.seconds, 1
                _drive(measured, measured.one_cpu, (kind, clients), server, payload, timing, generator)


def _drive(
    measured: Measured,
    loads: dict[tuple[str, int], Load],
    key: tuple[str, int],
    server: Running,
    payload: Payload,
    timing: tuple[int, int],
    cpus: tuple[int, ...] = (),
) -> None:
    """Put a load into `loads`, or note that nothing was answered."""
    try:
        loads[key] = drive(server, payload, key[1], *timing, cpus)
    except NoReplyError as error:
        measured.failure = f"{key[1]} clients, {key[0]}: {error}"


def _fastembed(effort: Effort, progress: Progress) -> Callable[[Measured], None]:
    def run(measured: Measured) -> None:
        model = peer_models.fastembed(progress)
        measured.model = _megabytes(model)
        with tempfile.TemporaryDirectory() as folder:
            photo, large = Path(folder, "photo.jpg"), Path(folder, "large.jpg")
            photo.write_bytes(payloads.small_jpeg())
            large.write_bytes(detailed_12mp_jpeg())
            for tower, kinds, items in (
                ("text", (TEXT,), [payloads.SHORT_TEXT]),
                ("image", (PHOTO, LARGE), [str(photo), str(large)]),
            ):
                starts = []
                for number in range(effort.starts + 1):
                    progress(f"{measured.name}: {tower}, {number or 'uncounted'}/{effort.starts}")
                    # Loads only in the last one.
                    seconds = effort.seconds if number == effort.starts else 0
                    start, figures = _run_fastembed(model / tower, tower, seconds, items)
                    if number:
                        starts.append(start)
                measured.start[kinds[0]] = median(starts)
                measured.cpu_ms |= dict(zip(kinds, figures["cpu_ms"], strict=True))
                measured.memory[kinds[0]] = figures["megabytes"]
                for clients, (rate, p50, p99) in zip(CLIENTS, figures["loads"], strict=True):
                    load = Load(clients, rate, p50, p99, 0.0, {200: 1}, 0, 0.0)
                    measured.loads[kinds[0], clients] = load

    return run


def _run_fastembed(folder: Path, tower: str, seconds: int, items: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds until the first vector, and what the script measured."""
    command = [
        *(environments.install("fastembed", lambda _: None), "-m", "tests.bench.peers.fastembed_in_process"),
        *(tower, str(folder), str(seconds), ",".join(map(str, CLIENTS)), *items),
    ]
    settings = environment({"HF_HUB_OFFLINE": "1"})
    # CLOCK_MONOTONIC is the same in every process.
    started = time.monotonic()
    ended = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip()[-300:])
    figures = json.loads(ended.stdout.strip().splitlines()[-1])
    return figures["first"] - started, figures


def _megabytes(folder: Path) -> float:
    """Size of the files that a model folder holds, in MB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
