"""Looks for near-duplicates among the photos of an index: as a Cloud Run job, or on this machine.

    python -m functions.duplicates [--threshold T] [--space S] [--dry-run]

BUCKET_URL and INDEX_URL name the bucket and the index. The groups are stored in the index, where
GET /duplicates reads them. Nothing is ever deleted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

from clip_embeddings.config import Settings
from clip_embeddings.duplicates.groups import Group, find_groups
from clip_embeddings.duplicates.objects import Objects, read_objects
from clip_embeddings.duplicates.report import (
    MAX_MEMBERS,
    Member,
    StoredGroup,
    Summary,
    new_version,
    write_report,
)
from clip_embeddings.errors import ConfigError
from clip_embeddings.index.factory import open_configured_index
from clip_embeddings.index.types import Index
from clip_embeddings.logs import LOG_SECONDS, logger
from clip_embeddings.startup import starting
from clip_embeddings.storage.factory import bucket_name
from clip_embeddings.storage.types import StorageError

T = TypeVar("T")

# Copies of a picture in another size or quality have more, most different pictures less.
THRESHOLD = 0.97


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if it failed, 130 if interrupted."""
    options = _parse(argv)
    with starting("duplicates") as runtime:
        run = _prepare(runtime.settings, options)
    try:
        return run()
    except StorageError as error:
        print(f"duplicates: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("duplicates: the vectors do not fit into memory.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("duplicates: interrupted. What was stored before is unchanged.", file=sys.stderr)
        return 130


def _prepare(settings: Settings, options: argparse.Namespace) -> Callable[[], int]:
    if settings.photos.url is None:
        raise ConfigError("BUCKET_URL is not set: use gs://bucket or file:///folder.")
    if settings.task.index:
        return _leave_to_the_first_task
    return partial(_run, open_configured_index(settings), bucket_name(settings.photos.url), options)


def _leave_to_the_first_task() -> int:
    logger.info("duplicates: one task compares all photos, which is not this one")
    return 0


def _run(index: Index, bucket: str, options: argparse.Namespace) -> int:
    count = index.count(options.space)
    with _progress(count, "read") as advance:
        spaces = read_objects(_counted(index.entries(options.space), advance), bucket, count)
    if not spaces:
        where = f" in the space {options.space}" if options.space else ""
        print(f"duplicates: the index has no photos of {bucket}{where}.", flush=True)
    for space, objects in spaces.items():
        with _progress(len(objects), "compared") as advance:
            groups = find_groups(objects.vectors, objects.order(), options.threshold, advance)
        stored = _stored(groups, objects)
        if not options.dry_run:
            made = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            summary = Summary(new_version(), bucket, space, options.threshold, made, len(objects))
            write_report(index, summary, stored)
        surplus = sum(group.count - 1 for group in stored)
        print(
            f"{'would store' if options.dry_run else 'stored'} {len(stored):,} "
            f"group{'' if len(stored) == 1 else 's'} of near-duplicates: "
            f"{surplus:,} of {len(objects):,} photos resemble another one ({space})",
            flush=True,
        )
    return 0


def _stored(groups: Iterable[Group], objects: Objects) -> list[StoredGroup]:
    """The groups as they are stored: those whose members are all very similar first."""

    def member(number: int, score: float) -> Member:
        return Member(objects.names[number], objects.generations[number], round(float(score), 6))

    # The scores of a group descend, so its last one is the least.
    ordered = sorted(groups, key=lambda group: (-group.scores[-1], objects.names[group.numbers[0]]))
    return [
        StoredGroup(
            len(group.numbers),
            list(map(member, group.numbers[:MAX_MEMBERS].tolist(), group.scores[:MAX_MEMBERS].tolist())),
        )
        for group in ordered
    ]


def _counted(items: Iterable[T], advance: Callable[[int], None]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        advance(number)


@contextmanager
def _progress(total: int, verb: str) -> Iterator[Callable[[int], None]]:
    """Shows how many of `total` are done: a progress bar on a terminal, and lines in the log elsewhere."""
    # Not installed in the cloud.
    if sys.stderr.isatty() and find_spec("tqdm"):
        from tqdm import tqdm

        with tqdm(total=total, unit="photo", desc=verb, dynamic_ncols=True) as bar:

            def show(done: int) -> None:
                bar.update(done - bar.n)

            yield show
        return
    last_logged = time.monotonic()

    def log(done: int) -> None:
        nonlocal last_logged
        if time.monotonic() - last_logged > LOG_SECONDS:
            last_logged = time.monotonic()
            logger.info("duplicates: %s %s of %s photos", verb, f"{done:,}", f"{total:,}")

    yield log


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m functions.duplicates",
        description="Look for near-duplicates among the photos of an index, and store the groups there.",
    )
    parser.add_argument(
        "--threshold",
        metavar="T",
        type=_threshold,
        default=THRESHOLD,
        help="how similar photos of a group are to its first one at least: a cosine from 0.5 to 1, by "
        "default %(default)s",
    )
    parser.add_argument("--space", metavar="S", help="only photos of this embedding space")
    parser.add_argument("--dry-run", action="store_true", help="say how many there are, and store nothing")
    return parser.parse_args(argv)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: use a cosine from 0.5 to 1")
    return value
