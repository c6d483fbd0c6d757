"""Adds the entries of a file that `export` wrote to an index, of any kind.

    python -m clip_embeddings.load [--index URL] [--space SPACE] [--format parquet|npy|jsonl] FILE

It may be run again: what the index holds in the same generation is written again, and newer ones are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

from clip_embeddings.exchange.command_line import add_arguments, chosen_format, chosen_index, run
from clip_embeddings.exchange.formats import batches
from clip_embeddings.exchange.rows import FileError
from clip_embeddings.index.types import Entry, Index

# Entries of one transaction.
BATCH_SIZE = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if it failed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m clip_embeddings.load", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_arguments(parser, "the file to read")
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="accept vectors of several fingerprints in one space, as after a change of settings",
    )
    options = parser.parse_args(argv)

    def work() -> str:
        entries = chosen_format(options).read(options.file)
        return load(chosen_index(options), entries, options.space, mixed=options.mixed)

    return run("load", work)


def load(index: Index, entries: Iterable[Entry], space: str | None = None, *, mixed: bool = False) -> str:
    """Write entries to an index; returns a sentence that says how many.

    Args:
        space: leave out the entries of others.
        mixed: accept several fingerprints in one space.

    Raises:
        FileError: a fingerprint differs from those of the same space. Entries before it are written.
    """
    written = kept = 0
    chosen = (entry for entry in entries if space in (None, entry.space))
    checked = chosen if mixed else _of_one_fingerprint(index, chosen)
    # Some indexes load faster if they are told.
    with getattr(index, "bulk_loading", nullcontext)():
        for batch in batches(checked, BATCH_SIZE):
            results = index.upsert(batch)
            written += sum(results)
            kept += len(results) - sum(results)
    newer = f"; {kept:,} are in the index in a newer generation, or were removed" if kept else ""
    return f"loaded {written:,} entries{newer}"


def _of_one_fingerprint(index: Index, entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, each space of which has the fingerprint that it has in the index, or else at first."""
    fingerprints: dict[str, str] = {}
    for entry in entries:
        if entry.space not in fingerprints:
            present = next(index.entries(entry.space), None) if index.count(entry.space) else None
            fingerprints[entry.space] = present.fingerprint if present else entry.fingerprint
        if entry.fingerprint != fingerprints[entry.space]:
            raise FileError(
                f"{entry.name!r} has the fingerprint {entry.fingerprint}, others of its space have "
                f"{fingerprints[entry.space]}: other weights made them, or pictures were decoded otherwise. "
                "--mixed loads them all the same."
            )
        yield entry


if __name__ == "__main__":
    sys.exit(main())
