"""Measures what the command line asks for. A report, not a test: the exit status is always 0.

What a measurement needs is imported when it is asked for, because --help and --index need no torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from tests.bench.options import parse_options


def main() -> None:
    """Run the command line."""
    options = parse_options()
    # On SIGTERM, exit through the context managers that stop the services.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if only := _vectors(options) or _starts(options) or _requests(options):
        print(only)
        return
    from tests.bench import everything

    everything.show(_progress, quick=options.quick)


def _vectors(options: argparse.Namespace) -> str:
    """The report that is asked for of an index, near-duplicates, a backfill or Spark, or an empty text."""
    if options.spark:
        from tests.bench import spark

        return spark.report(_progress, quick=options.quick)
    if not (options.index or options.backfill or options.duplicates):
        return ""
    from tests.bench import machine

    load = os.getloadavg()[0]
    if options.index:
        from tests.bench import index

        report = index.report(options.rows, quick=options.quick)
    elif options.duplicates:
        from tests.bench import duplicates

        report = f"{machine.describe()}\n\n{duplicates.report(options.rows, quick=options.quick)}"
    else:
        from tests.bench import backfill

        report = backfill.report(quick=options.quick)
    machine.warn_of_load(load)
    return report


def _starts(options: argparse.Namespace) -> str:
    """The report that is asked for of starts, or an empty text."""
    if not (options.starts or options.cold_disk or options.probes):
        return ""
    from tests.bench import cold_disk, probes, starts, weights

    quick: bool = options.quick
    if options.probes:
        return probes.report(_progress, quick=quick)
    model = options.model or weights.baked("int8")
    if options.starts:
        return starts.report(model, _progress, quick=quick, svg=options.svg)
    return cold_disk.report(model, _progress, quick=quick, milliseconds=options.slow_reads)


def _requests(options: argparse.Namespace) -> str:
    """The report that is asked for of models and of requests, or an empty text."""
    quick: bool = options.quick
    if options.models:
        from model_cache.baking.catalogue import CATALOGUE
        from tests.bench import models

        names = [entry.name for entry in CATALOGUE] if options.models == ["catalogue"] else options.models
        return models.measure(names, 10 if quick else 30, _progress)
    if options.concurrency:
        from tests.bench import concurrency, weights

        return concurrency.compare(weights.baked("int8"), *((0.5, 2) if quick else (2.0, 5)))
    if options.tokenizer:
        from tests.bench import tokenizer

        return tokenizer.report(3 if quick else 15, _progress)
    if options.throughput:
        from tests.bench import throughput

        return throughput.report(_progress, quick=quick)
    if options.memory:
        from tests.bench import memory

        return memory.report(_progress, quick=quick)
    if options.soak:
        from tests.bench import soak

        return soak.report(1.0 if quick else options.soak, _progress)
    if options.peers:
        from tests.bench import side_by_side_report

        return side_by_side_report.report(_progress, quick=quick)
    return ""


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
