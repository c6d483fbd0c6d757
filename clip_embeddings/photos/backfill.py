"""Embeds the photos that a bucket holds already: as a Cloud Run job, or from here.

    python -m functions.backfill [--prefix P] [--dry-run]

BUCKET_URL, INDEX_URL and MODEL say which, where to and how. A run that was ended, by whatever, goes on where
it was when it is started again. It is also how a collection moves to another model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from clip_embeddings.config import ConfigError
from clip_embeddings.logs import logger
from clip_embeddings.photos.collection import open_indexed_bucket
from clip_embeddings.photos.indexer import (
    Change,
    Deletion,
    Indexer,
    ObjectVersion,
    Report,
    apply,
    open_indexer,
)
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.runtime import Runtime
from clip_embeddings.startup import start
from clip_embeddings.storage.types import StorageError

# Seconds between two lines in the log, where there is no progress bar.
LOG_SECONDS = 30.0

REASONS = {
    "already there": "already there",
    "image_unsupported": "no picture",
    "object_gone": "gone meanwhile",
    "superseded": "replaced meanwhile",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if anything failed."""
    options = _parse(argv)

    def build(runtime: Runtime) -> tuple[Indexer, str]:
        indexer = open_indexer(open_indexed_bucket(runtime.settings), runtime)
        return indexer, _prefix(options.prefix, indexer.collection.prefix)

    indexer, prefix = start("backfill", build)
    report = Report()
    try:
        if options.dry_run:
            planned = Counter(map(type, _changes(indexer, prefix, report)))
            there = report.skipped["already there"]
            print(f"would embed {planned[ObjectVersion]:,}, remove {planned[Deletion]:,}, skip {there:,}")
        else:
            try:
                apply(indexer, _shown(indexer, prefix, report), report)
            finally:
                print(summary(report), flush=True)
    except StorageError as error:
        print(f"backfill: {error} Run it again to go on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("backfill: interrupted. Run it again to go on.", file=sys.stderr)
        return 130
    return 1 if report.failed else 0


def summary(report: Report) -> str:
    """What was done, and why some was not."""
    skipped = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in sorted(report.skipped.items()))
    lines = [
        f"embedded {report.embedded:,}, removed {report.removed:,}, "
        f"skipped {report.skipped.total():,}{f' ({skipped})' if skipped else ''}, "
        f"failed {report.failed.total():,}"
    ]
    for code, count in sorted(report.failed.items()):
        names = ", ".join(map(repr, report.examples[code]))
        lines.append(f"  {code}: {count:,}, such as {names}")
    return "\n".join(lines)


def _changes(indexer: Indexer, prefix: str, report: Report) -> Iterator[Change]:
    task = indexer.runtime.settings.task
    return differences(indexer.collection, indexer.fingerprint, report, prefix, task)


def _shown(indexer: Indexer, prefix: str, report: Report) -> Iterable[Change]:
    """The changes, with a progress bar for a person and lines in the log for everyone else."""
    changes = _changes(indexer, prefix, report)
    if not sys.stderr.isatty():
        return _logged(changes, report)
    try:
        # A tool of this machine, not of the cloud's.
        from tqdm import tqdm
    except ImportError:
        return _logged(changes, report)
    # Listed once more, to know how long it takes.
    total = sum(1 for _ in _changes(indexer, prefix, Report()))
    return tqdm(changes, total=total, unit="photo", dynamic_ncols=True)


def _logged(changes: Iterable[Change], report: Report) -> Iterator[Change]:
    said = time.monotonic()
    for change in changes:
        if time.monotonic() - said > LOG_SECONDS:
            said = time.monotonic()
            logger.info("backfill: so far %s", summary(report).partition("\n")[0])
        yield change


def _prefix(given: str | None, ours: str) -> str:
    if given is not None and not given.startswith(ours):
        raise ConfigError(f"--prefix must start with BUCKET_PREFIX, {ours!r}.")
    return ours if given is None else given


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m functions.backfill", description="Embed the photos that a bucket holds already."
    )
    parser.add_argument("--prefix", metavar="P", help="only objects whose names start with P")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
