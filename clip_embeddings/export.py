"""Writes the entries of an index to a file, which `load`, or another program, reads.

python -m clip_embeddings.export [--index URL] [--space SPACE] [--format parquet|npy|jsonl] FILE
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from clip_embeddings.exchange.command_line import add_arguments, chosen_format, chosen_index, run
from clip_embeddings.exchange.formats import Format
from clip_embeddings.index.types import Entry, Index


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if it failed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m clip_embeddings.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_arguments(parser, "the file to write; one that exists is replaced at the end")
    options = parser.parse_args(argv)
    return run(
        "export",
        lambda: export(chosen_index(options), options.file, chosen_format(options), options.space),
    )


def export(index: Index, path: Path, format_: Format, space: str | None = None) -> str:
    """Write the entries of one space or of all; returns a sentence that says how many.

    The file appears, or is replaced, once it is complete. Memory does not grow with the number of entries.
    """
    spaces = Counter[str]()

    def counted() -> Iterator[Entry]:
        for entry in index.entries(space):
            spaces[entry.space] += 1
            yield entry

    # The suffix stays last, because a second file may be named after the first one.
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    beside = [(part.with_suffix(suffix), path.with_suffix(suffix)) for suffix in (path.suffix, ".jsonl")]
    try:
        count = format_.write(part, counted())
        for written, final in dict(beside).items():
            if written.exists():
                written.replace(final)
    finally:
        for written, _ in beside:
            with suppress(FileNotFoundError):
                written.unlink()
    listed = "".join(f"\n  {name}: {number:,}" for name, number in sorted(spaces.items()))
    return f"wrote {count:,} entries to {path}{listed}"


if __name__ == "__main__":
    sys.exit(main())
