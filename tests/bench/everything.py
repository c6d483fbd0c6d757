"""What `make bench` does without arguments: the table of all services, and the reports after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.bench import backfill, index, machine, measure, payloads, probes, services, starts, weights
from tests.bench.measure import Key, Progress, Samples
from tests.bench.report import Memory, Results, table, verdicts
from tests.bench.services import Running, Service
from tests.support.photographs import detailed_12mp_jpeg

# The start of the empty function, which counts for texts and images alike.
EMPTY: Key = ("start", "empty")


def show(progress: Progress, *, quick: bool) -> None:
    """Measure, and print each report as soon as there is one."""
    folders = {precision: weights.baked(precision) for precision in weights.PRECISIONS}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as logs:
        results = _measure(folders, Path(logs), progress, quick=quick)
    print(table(results))
    print(f"\n{os.cpu_count()} CPUs. Seconds and ms are medians, MB are 10^6 bytes.")
    machine.warn_of_load(load)
    print("\n".join(verdicts(results)))
    print(f"\n{starts.report(folders['int8'], progress, quick=quick, svg=None)}")
    print(f"\n{probes.report(progress, quick=quick)}")
    print(f"\n{index.report(quick=quick)}\n\n{backfill.report(quick=quick)}")


def _measure(folders: Mapping[str, Path], logs: Path, progress: Progress, *, quick: bool) -> Results:
    small = payloads.small_jpeg()
    text, photo = payloads.texts(), payloads.upload(small)
    functions = {
        (tower, precision): services.staged(
            f"embed_{tower} {precision}", f"embed_{tower}", folder, weights.BUILD / "staged" / precision
        )
        for precision, folder in folders.items()
        for tower in ("text", "image")
    }
    fastapi = services.fastapi(weights.checkpoint())
    empty = services.function("empty", "empty", "tests/bench/empty_function.py")
    first_requests = {
        EMPTY: (empty, text),
        **{
            key: (service, text if key[0] == "text" else payloads.raw(small))
            for key, service in functions.items()
        },
        ("text", "fastapi"): (fastapi, text),
        ("image", "fastapi"): (fastapi, photo),
    }
    starts = measure.starts(first_requests, 2 if quick else 7, logs, progress)

    with ExitStack() as stack:
        servers = {key: _start_warm(stack, service, logs) for key, service in functions.items()}
        fastapi_server = _start_warm(stack, fastapi, logs)
        servers |= {("text", "fastapi"): fastapi_server, ("image", "fastapi"): fastapi_server}
        blocks = 2 if quick else 6
        plan = (
            ("short text", "text", text, 20),
            ("640x480 JPEG", "image", photo, 10),
            ("12 MP JPEG", "image", payloads.upload(detailed_12mp_jpeg()), 5),
        )
        requests: dict[Key, Samples] = {}
        for name, tower, payload, count in plan:
            targets = {
                (name, key[1]): (server, payload) for key, server in servers.items() if key[0] == tower
            }
            requests |= measure.requests(targets, blocks, count, progress)
        memory = {key: Memory(server.worker_rss(), server.tree_pss()) for key, server in servers.items()}
        batch = measure.stages(servers["text", "int8"], payloads.texts(256), 3 if quick else 9)
    return Results(starts, requests, memory, batch)


def _start_warm(stack: ExitStack, service: Service, logs: Path) -> Running:
    """Start `service` and wait until its model is loaded."""
    server = stack.enter_context(services.running(service, logs))
    image = "image" in service.name
    server.wait_for_reply(payloads.upload(payloads.small_jpeg()) if image else payloads.texts())
    return server
