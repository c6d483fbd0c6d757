"""Compare the functions with an empty one and with FastAPI + open_clip, and print one table.

The functions run from the folders that deploy.sh would deploy. This takes a few minutes; the first run takes
longer, because it makes and bakes random weights. It is a report, not a test: the exit status is always 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from model_cache.baking.catalogue import CATALOGUE
from tests.bench import (
    backfill,
    cold_disk,
    concurrency,
    index,
    measure,
    memory,
    models,
    payloads,
    probes,
    services,
    side_by_side_report,
    soak,
    starts,
    throughput,
    tokenizer,
    weights,
)
from tests.bench.measure import Key, Samples
from tests.bench.report import Memory, Results, table, verdicts
from tests.bench.services import Running, Service
from tests.support.photographs import detailed_12mp_jpeg

# The start of the empty function, which counts for texts and images alike.
EMPTY: Key = ("start", "empty")


def main() -> None:
    """Run the command line."""
    options = _parse()
    # On SIGTERM, exit through the context managers that stop the services.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if only := _only(options):
        print(only)
        return
    folders = {precision: weights.baked(precision) for precision in weights.PRECISIONS}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as logs:
        results = _measure(folders, Path(logs), quick=options.quick)
    print(table(results))
    print(f"\n{os.cpu_count()} CPUs. Seconds and ms are medians, MB are 10^6 bytes.")
    _warn(load)
    print("\n".join(verdicts(results)))
    print(f"\n{starts.report(folders['int8'], _progress, quick=options.quick, svg=None)}")
    print(f"\n{probes.report(_progress, quick=options.quick)}")
    print(f"\n{_index(options.quick)}\n\n{_backfill(options.quick)}")


def _only(options: argparse.Namespace) -> str:
    """The report of the one measurement that is asked for, or an empty text."""
    quick: bool = options.quick
    if options.models:
        names = [entry.name for entry in CATALOGUE] if options.models == ["catalogue"] else options.models
        return models.measure(names, 10 if quick else 30, _progress)
    if options.index or options.backfill:
        load = os.getloadavg()[0]
        report = _index(quick, options.rows) if options.index else _backfill(quick)
        _warn(load)
        return report
    if options.concurrency:
        return concurrency.compare(weights.baked("int8"), *((0.5, 2) if quick else (2.0, 5)))
    if options.tokenizer:
        return tokenizer.report(3 if quick else 15, _progress)
    if options.throughput:
        return throughput.report(_progress, quick=quick)
    if options.memory:
        return memory.report(_progress, quick=quick)
    if options.soak:
        return soak.report(1.0 if quick else options.soak, _progress)
    if options.peers:
        return side_by_side_report.report(_progress, quick=quick)
    if options.starts:
        model = options.model or weights.baked("int8")
        return starts.report(model, _progress, quick=quick, svg=options.svg)
    if options.cold_disk:
        model = options.model or weights.baked("int8")
        return cold_disk.report(model, _progress, quick=quick, milliseconds=options.slow_reads)
    if options.probes:
        return probes.report(_progress, quick=quick)
    return ""


def _warn(load: float) -> None:
    if load > 0.3:
        print(f"Other processes used the machine (load {load:.1f}): trust CPU time and ratios, not seconds.")


def _index(quick: bool, rows: int | None = None) -> str:
    return index.report(rows or (10_000 if quick else 100_000), 50 if quick else 300)


def _backfill(quick: bool) -> str:
    return backfill.report(*((200, 3) if quick else (1_000, 5)))


def _measure(folders: Mapping[str, Path], logs: Path, *, quick: bool) -> Results:
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
    starts = measure.starts(first_requests, 2 if quick else 7, logs, _progress)

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
            requests |= measure.requests(targets, blocks, count, _progress)
        memory = {key: Memory(server.worker_rss(), server.tree_pss()) for key, server in servers.items()}
        batch = measure.stages(servers["text", "int8"], payloads.texts(256), 3 if quick else 9)
    return Results(starts, requests, memory, batch)


def _start_warm(stack: ExitStack, service: Service, logs: Path) -> Running:
    """Start `service` and wait until its model is loaded."""
    server = stack.enter_context(services.running(service, logs))
    image = "image" in service.name
    server.wait_for_reply(payloads.upload(payloads.small_jpeg()) if image else payloads.texts())
    return server


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, for a first impression")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="only: the cost of these models of the catalogue, or of all of them for `catalogue`",
    )
    parser.add_argument(
        "--gate",
        dest="concurrency",
        action="store_true",
        help="only: whether two model runs at once pay off on this machine",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="only: this project beside fastembed, infinity-emb, FastAPI + open_clip and FastAPI + "
        "transformers, each in an environment of its own (installs 4 GB below build/; needs wrk)",
    )
    parser.add_argument(
        "--soak",
        nargs="?",
        type=float,
        const=10.0,
        metavar="MINUTES",
        help="only: 64 clients that want different things, hostile and slow ones among them (10 minutes)",
    )
    parser.add_argument(
        "--memory", action="store_true", help="only: memory of the worst legal requests, peak and afterwards"
    )
    parser.add_argument(
        "--throughput",
        action="store_true",
        help="only: requests a second of many clients, on one CPU and on two (needs wrk)",
    )
    parser.add_argument(
        "--starts",
        action="store_true",
        help="only: starts on one CPU and on two, memory warm and, for root, disk cold; and their parts",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="with --starts: draw the parts there")
    parser.add_argument(
        "--cold-disk",
        action="store_true",
        help="only: starts with nothing in memory: seconds, and what is read from the disk (needs root)",
    )
    parser.add_argument(
        "--slow-reads",
        nargs="?",
        type=float,
        const=10.0,
        metavar="MS",
        help="with --cold-disk: on simulated storage where each read takes as long (10 ms)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="with --starts or --cold-disk: a baked int8 model, instead of one of random weights",
    )
    parser.add_argument(
        "--probes",
        action="store_true",
        help="only: the first answered request, by the platform's startup probe",
    )
    parser.add_argument("--index", action="store_true", help="only: search over many vectors, in each index")
    parser.add_argument("--rows", type=int, metavar="N", help="with --index: how many vectors (100,000)")
    parser.add_argument("--backfill", action="store_true", help="only: photos indexed per second")
    parser.add_argument("--tokenizer", action="store_true", help="only: CLIP's tokenizer in its two files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
