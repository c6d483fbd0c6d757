"""The command line of `make bench`. Standard library only, so that --help needs no environment."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Compare the functions with an empty one and with FastAPI + open_clip, and print one table.

The functions run from the folders that deploy.sh would deploy. This takes a few minutes; the first run takes
longer, because it makes and bakes random weights. It is a report, not a test: the exit status is always 0.
"""


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=DESCRIPTION)
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
    parser.add_argument(
        "--duplicates", action="store_true", help="only: the search for near-duplicates among many vectors"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="with --index or --duplicates: how many vectors (100,000)"
    )
    parser.add_argument("--backfill", action="store_true", help="only: photos indexed per second")
    parser.add_argument(
        "--spark",
        action="store_true",
        help="only: CPU of a row in the Spark job, beside the engine alone (needs Java 17)",
    )
    parser.add_argument("--tokenizer", action="store_true", help="only: CLIP's tokenizer in its two files")
    return parser.parse_args()
