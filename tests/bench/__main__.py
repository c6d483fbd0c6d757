"""Measure our functions beside an empty one and beside FastAPI + open_clip, and print one table.

Ours start from the folders that deploy.sh would deploy. Takes a few minutes, the first time a few more to
make and bake random weights. A report, not a test: the exit status is 0 whatever it says.
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
from tests.bench import backfill, calls, gate, index, measure, models, services, weights
from tests.bench.measure import Key, Samples
from tests.bench.report import Memory, Results, table, verdicts
from tests.bench.services import Running, Service
from tests.support.photographs import detailed_12mp_jpeg

EMPTY: Key = ("start", "empty")


def main() -> None:
    """Run the command line."""
    options = _parse()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.models:
        names = [entry.name for entry in CATALOGUE] if options.models == ["catalogue"] else options.models
        print(models.measure(names, 10 if options.quick else 30, _say))
        return
    if options.index or options.backfill:
        load = os.getloadavg()[0]
        print(_index(options.quick) if options.index else _backfill(options.quick))
        _warn(load)
        return
    folders = {precision: weights.baked(precision) for precision in weights.PRECISIONS}
    if options.gate:
        print(gate.compare(folders["int8"], *((0.5, 2) if options.quick else (2.0, 5))))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as logs:
        results = _measure(folders, Path(logs), quick=options.quick)
    print(table(results))
    print(f"\n{os.cpu_count()} CPUs. Seconds and ms are medians, MB are 10^6 bytes.")
    _warn(load)
    print("\n".join(verdicts(results)))
    print(f"\n{_index(options.quick)}\n\n{_backfill(options.quick)}")


def _warn(load: float) -> None:
    if load > 0.3:
        print(f"Others kept the machine busy (load {load:.1f}): trust CPU time and ratios, not seconds.")


def _index(quick: bool) -> str:
    return index.report(*((10_000, 50) if quick else (100_000, 300)))


def _backfill(quick: bool) -> str:
    return backfill.report(*((200, 3) if quick else (1_000, 5)))


def _measure(folders: Mapping[str, Path], logs: Path, *, quick: bool) -> Results:
    small = calls.small_jpeg()
    text, photo = calls.texts(), calls.upload(small)
    ours = {
        (what, precision): services.staged(
            f"embed_{what} {precision}", f"embed_{what}", folder, weights.BUILD / "staged" / precision
        )
        for precision, folder in folders.items()
        for what in ("text", "image")
    }
    theirs = services.fastapi(weights.checkpoint())
    empty = services.function("empty", "empty", "tests/bench/empty_function.py")
    first = {
        EMPTY: (empty, text),
        **{key: (service, text if key[0] == "text" else calls.raw(small)) for key, service in ours.items()},
        ("text", "fastapi"): (theirs, text),
        ("image", "fastapi"): (theirs, photo),
    }
    starts = measure.starts(first, 2 if quick else 7, logs, _say)

    with ExitStack() as stack:
        servers = {key: _warm(stack, service, logs) for key, service in ours.items()}
        common = _warm(stack, theirs, logs)
        servers |= {("text", "fastapi"): common, ("image", "fastapi"): common}
        blocks = 2 if quick else 6
        plan = (
            ("short text", "text", text, 20),
            ("640x480 JPEG", "image", photo, 10),
            ("12 MP JPEG", "image", calls.upload(detailed_12mp_jpeg()), 5),
        )
        requests: dict[Key, Samples] = {}
        for name, what, call, count in plan:
            asked = {(name, who): (server, call) for (kind, who), server in servers.items() if kind == what}
            requests |= measure.requests(asked, blocks, count, _say)
        memory = {key: Memory(server.worker_rss(), server.tree_pss()) for key, server in servers.items()}
        batch = measure.stages(servers["text", "int8"], calls.texts(256), 3 if quick else 9)
    return Results(starts, requests, memory, batch)


def _warm(stack: ExitStack, service: Service, logs: Path) -> Running:
    """`service`, started, with its model loaded."""
    server = stack.enter_context(services.running(service, logs))
    server.first_answer(calls.upload(calls.small_jpeg()) if "image" in service.name else calls.texts())
    return server


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
    else:
        print(what, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: a first impression")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="only: what these models of the catalogue cost, or `catalogue` for all of them",
    )
    parser.add_argument(
        "--gate", action="store_true", help="only: do two model runs at once pay off on this machine?"
    )
    parser.add_argument("--index", action="store_true", help="only: search over 100,000 vectors in SQLite")
    parser.add_argument("--backfill", action="store_true", help="only: photos a second into the index")
    return parser.parse_args()


if __name__ == "__main__":
    main()
