"""Embeds the photos that are already in a bucket: as a Cloud Run job, or on this machine.

    python -m functions.backfill [--prefix P] [--dry-run]

BUCKET_URL, INDEX_URL and MODEL name the bucket, the index and the model. A run that did not finish is
continued by starting it again. A backfill also moves an index to another model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from clip_embeddings.errors import ConfigError
from clip_embeddings.logs import logger
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.types import SKIP_REASONS, UP_TO_DATE, Change, Deletion, ObjectVersion, Report
from clip_embeddings.runtime import Runtime
from clip_embeddings.startup import starting
from clip_embeddings.storage.types import StorageError

# Seconds between two lines of the log, where there is no progress bar.
LOG_SECONDS = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if anything failed, 130 if interrupted."""
    options = _parse(argv)

    def build(runtime: Runtime) -> tuple[Indexer, str]:
        indexer = open_indexer(open_indexed_bucket(runtime.settings), runtime)
        return indexer, _choose_prefix(options.prefix, indexer.indexed_bucket.prefix)

    with starting("backfill") as runtime:
        indexer, prefix = build(runtime)
    report = Report()
    try:
        if options.dry_run:
            planned = Counter(map(type, _changes(indexer, prefix, report)))
            up_to_date = report.skipped[UP_TO_DATE]
            print(
                f"would embed {planned[ObjectVersion]:,}, remove {planned[Deletion]:,}, skip {up_to_date:,}"
            )
        else:
            try:
                apply_changes(indexer, _with_progress(indexer, prefix, report), report)
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
    """The counts of a report, and the reasons why objects were skipped or failed."""
    skipped = ", ".join(
        f"{count:,} {SKIP_REASONS.get(code, code)}" for code, count in sorted(report.skipped.items())
    )
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
    return differences(indexer.indexed_bucket, indexer.fingerprint, report, prefix, task)


def _with_progress(indexer: Indexer, prefix: str, report: Report) -> Iterable[Change]:
    """The changes, with a progress bar on a terminal and lines in the log elsewhere."""
    changes = _changes(indexer, prefix, report)
    if not sys.stderr.isatty():
        return _with_log(changes, report)
    try:
        # Not installed in the cloud.
        from tqdm import tqdm
    except ImportError:
        return _with_log(changes, report)
    # Listed once more, because a progress bar needs the total.
    total = sum(1 for _ in _changes(indexer, prefix, Report()))
    return tqdm(changes, total=total, unit="photo", dynamic_ncols=True)


def _with_log(changes: Iterable[Change], report: Report) -> Iterator[Change]:
    last_logged = time.monotonic()
    for change in changes:
        if time.monotonic() - last_logged > LOG_SECONDS:
            last_logged = time.monotonic()
            logger.info("backfill: so far %s", summary(report).partition("\n")[0])
        yield change


def _choose_prefix(option: str | None, bucket_prefix: str) -> str:
    if option is not None and not option.startswith(bucket_prefix):
        raise ConfigError(f"--prefix must start with BUCKET_PREFIX, {bucket_prefix!r}.")
    return bucket_prefix if option is None else option


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m functions.backfill", description="Embed the photos that a bucket holds already."
    )
    parser.add_argument("--prefix", metavar="P", help="only objects whose names start with P")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")
    return parser.parse_args(argv)
