"""Embeds the photos that are already in a bucket: as a Cloud Run job, or on this machine.

    python -m functions.backfill [--prefix P] [--manifest FILE] [--dry-run | --plan]

BUCKET_URL, INDEX_URL and MODEL name the bucket, the index and the model. A run that did not finish is
continued by starting it again. A backfill also moves an index to another model.

The tasks of a Cloud Run job share the names: one of them counts all names, and writes where each share starts
to PLAN_URL; each task lists its own share. --plan counts beforehand, so that no task has to wait.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from clip_embeddings.errors import ConfigError
from clip_embeddings.logs import LOG_SECONDS, logger
from clip_embeddings.photos.indexed_bucket import open_indexed_bucket
from clip_embeddings.photos.indexer import Indexer, open_indexer
from clip_embeddings.photos.manifest import Manifest
from clip_embeddings.photos.pipeline import apply_changes
from clip_embeddings.photos.reconcile import differences
from clip_embeddings.photos.tasks import Tasks, open_tasks
from clip_embeddings.photos.types import (
    SKIP_REASONS,
    UP_TO_DATE,
    Change,
    Deletion,
    ObjectVersion,
    Report,
    Retag,
)
from clip_embeddings.runtime import Runtime
from clip_embeddings.startup import starting
from clip_embeddings.storage.types import StorageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if anything failed, 130 if interrupted."""
    options = _parse(argv)

    def build(runtime: Runtime) -> Callable[[], int]:
        indexed_bucket = open_indexed_bucket(runtime.settings)
        prefix = _choose_prefix(options.prefix, indexed_bucket.prefix)
        tasks = open_tasks(indexed_bucket, prefix, runtime.settings, plan=options.plan)
        if options.plan:
            return partial(_plan, tasks)
        indexer = open_indexer(indexed_bucket, runtime)
        if indexer.tagger and not options.dry_run:
            # A text tower that does not work ends the start, and not the work.
            indexer.tagger.vectors.get()
        return partial(_backfill, indexer, tasks, options)

    with starting("backfill") as runtime:
        run = build(runtime)
    try:
        return run()
    except StorageError as error:
        print(f"backfill: {error} Run it again to go on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("backfill: interrupted. Run it again to go on.", file=sys.stderr)
        return 130


def _plan(tasks: Tasks) -> int:
    print(tasks.prepare())
    return 0


def _backfill(indexer: Indexer, tasks: Tasks, options: argparse.Namespace) -> int:
    report, indexed_bucket, prefix = Report(), tasks.indexed_bucket, tasks.prefix
    if options.manifest:
        manifest = Manifest(indexed_bucket, prefix, options.manifest, tasks.task)
        parallel = indexer.runtime.settings.fetch.parallel

        def changes(report: Report) -> Iterator[Change]:
            return manifest.changes(indexer.entry_version, report, parallel)
    else:
        share = tasks.share()

        def changes(report: Report) -> Iterator[Change]:
            return differences(
                indexed_bucket, indexer.entry_version, report, prefix, share.hashed, share.within
            )

    if options.dry_run:
        planned = Counter(map(type, changes(report)))
        tag = f"tag {planned[Retag]:,}, " if planned[Retag] else ""
        print(
            f"would embed {planned[ObjectVersion]:,}, {tag}remove {planned[Deletion]:,}, "
            f"skip {report.skipped[UP_TO_DATE]:,}"
        )
        return 0
    try:
        counted = None if options.manifest else changes
        progress = _with_progress(changes(report), counted, report)
        apply_changes(indexer, progress, report, keep=bool(options.manifest))
    finally:
        print(summary(report), flush=True)
    return 1 if report.failed else 0


def summary(report: Report) -> str:
    """The counts of a report, and the reasons why objects were skipped or failed."""
    skipped = ", ".join(
        f"{count:,} {SKIP_REASONS.get(code, code)}" for code, count in sorted(report.skipped.items())
    )
    tagged = f"tagged {report.tagged:,}, " if report.tagged else ""
    lines = [
        f"embedded {report.embedded:,}, {tagged}removed {report.removed:,}, "
        f"skipped {report.skipped.total():,}{f' ({skipped})' if skipped else ''}, "
        f"failed {report.failed.total():,}"
    ]
    for code, count in sorted(report.failed.items()):
        names = ", ".join(map(repr, report.examples[code]))
        lines.append(f"  {code}: {count:,}, such as {names}")
    return "\n".join(lines)


def _with_progress(
    changes: Iterator[Change], list_again: Callable[[Report], Iterator[Change]] | None, report: Report
) -> Iterable[Change]:
    """The changes, with a progress bar on a terminal and lines in the log elsewhere."""
    if not sys.stderr.isatty():
        return _with_log(changes, report)
    try:
        # Not installed in the cloud.
        from tqdm import tqdm
    except ImportError:
        return _with_log(changes, report)
    # Listed once more, because a progress bar needs the total.
    total = sum(1 for _ in list_again(Report())) if list_again else None
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
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        action="append",
        help="only the objects that a file names, one per line: names, URIs, CSV with a header (such as an "
        "inventory report) or JSON; a path or gs://bucket/file; may be repeated; nothing is removed from the "
        "index",
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")
    actions.add_argument(
        "--plan",
        action="store_true",
        help="count the names, and write to PLAN_URL how tasks share them; do nothing else",
    )
    options = parser.parse_args(argv)
    if options.manifest and options.plan:
        parser.error("a manifest needs no plan: its tasks share its lines")
    return options
