"""Reads the names of objects from a file, a share of its bytes at a time.

The file, in a folder or in Cloud Storage, has one object per line:

    a name, or a URI such as gs://bucket/name
    CSV with a header that has a column `name` or `uri`, such as an inventory report of Cloud Storage
    JSON, with `name` or `uri`, such as the files of `python -m clip_embeddings.export --format jsonl`
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import orjson

from clip_embeddings.config import TaskSettings
from clip_embeddings.index.types import object_uri
from clip_embeddings.storage.factory import open_stream
from clip_embeddings.storage.types import StorageError

# Bytes of a line. A name has at most 1,024; an inventory report has many columns, metadata among them.
MAX_LINE = 2**20
DELIMITERS = ",;\t|"

# From a line to a name, or to columns.
Parser = Callable[[str], str | Mapping[str, Any]]


class ManifestError(StorageError):
    """A file does not name objects of the bucket. The message says where, and why."""


def read_names(source: str, bucket: str, task: TaskSettings) -> Iterator[str]:
    """The names in one task's share of a file. Memory holds a few megabytes of it.

    Args:
        source: a path, or the URL of a file or of an object of Cloud Storage.
        bucket: the value of `Entry.bucket`, which URIs must begin with.

    Raises:
        ManifestError: a line is not understood, or names an object of another bucket.
        StorageError: the file cannot be read.
    """
    try:
        with open_stream(source) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            parse, has_header = _parser(_text(file.readline(MAX_LINE), source, 0))
            begin = file.tell() if has_header else 0
            bounds = [size * part // task.count for part in (task.index, task.index + 1)]
            for place, line in _lines(file, max(begin, bounds[0]), bounds[1]):
                text = _text(line, source, place)
                if text:
                    yield _name(parse, text, bucket, source, place)
    except OSError as error:
        raise ManifestError(f"The manifest {source} cannot be read: {error.strerror}.") from None


def _lines(file: BinaryIO, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    """The lines that begin at a byte from `low` to before `high`, with where they begin."""
    file.seek(max(0, low - 1))
    if low:
        # The rest of a line that begins before. It is only a line feed if a line begins at `low`.
        while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass
    while (place := file.tell()) < high and (line := file.readline(MAX_LINE)):
        yield place, line


def _text(line: bytes, source: str, place: int) -> str:
    if len(line) == MAX_LINE and not line.endswith(b"\n"):
        raise ManifestError(f"The manifest {source} has a line of more than {MAX_LINE:,} bytes at {place:,}.")
    try:
        return line.decode("utf-8-sig" if place == 0 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ManifestError(f"The manifest {source} is not text in UTF-8 at the byte {place:,}.") from None


def _parser(first_line: str) -> tuple[Parser, bool]:
    """How the lines of a file are read, and whether its first one is a header."""
    if first_line.startswith("{"):
        return orjson.loads, False
    for delimiter in DELIMITERS:
        columns = next(csv.reader([first_line], delimiter=delimiter), [])
        header = [column.strip().lower() for column in columns]
        if "name" in header or "uri" in header:
            return partial(_columns, header, delimiter), True
    return str, False


def _columns(header: list[str], delimiter: str, line: str) -> Mapping[str, Any]:
    (row,) = csv.reader([line], delimiter=delimiter, strict=True)
    return dict(zip(header, row, strict=True))


def _name(parse: Parser, line: str, bucket: str, source: str, place: int) -> str:
    """The name in one line."""
    base = object_uri(bucket, "")
    try:
        row = parse(line)
        fields: Mapping[str, Any] = {"uri": row} if isinstance(row, str) else row
        name, other = fields.get("name"), fields.get("bucket")
        if name is None:
            name = fields["uri"]
            if name.startswith(base):
                name = name[len(base) :]
            elif not isinstance(row, str) or name.startswith(("gs://", "file://")):
                other = name
        if not name or not isinstance(name, str):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error):
        raise ManifestError(f"The manifest {source} has a line that names no object at {place:,}.") from None
    if other not in (None, bucket):
        raise ManifestError(f"The manifest {source} names {other} at {place:,}: BUCKET_URL is {base}.")
    return name
