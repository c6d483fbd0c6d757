"""Files of entries, written and read a few at a time: JSON lines, NumPy, Parquet.

jsonl     one JSON object per line, with the vector as a list
npy       NAME.npy, (n, d) float32, and NAME.jsonl with a line for each of its rows; vectors of one space
parquet   a column per field; needs pyarrow
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import orjson

from clip_embeddings.config import missing_package
from clip_embeddings.exchange.rows import ROW_TYPES, VECTOR, FileError, to_entry, to_row
from clip_embeddings.index.registry import Package
from clip_embeddings.index.types import Entry

T = TypeVar("T")

# Entries in memory at once: a few megabytes.
BATCH_SIZE = 1000

PYARROW = Package("pyarrow", "requirements/parquet.txt")

# Numbers of numpy's in the fewest digits that read back the same.
_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    # Writes entries to new files at a path, and returns how many there were.
    write: Callable[[Path, Iterable[Entry]], int]
    # Reads them again. Raises FileError at the first that is wrong.
    read: Callable[[Path], Iterator[Entry]]


def batches(items: Iterable[T], size: int = BATCH_SIZE) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _write_jsonl(path: Path, entries: Iterable[Entry]) -> int:
    count = 0
    with path.open("wb") as file:
        for count, entry in enumerate(entries, 1):  # noqa: B007
            file.write(orjson.dumps({**to_row(entry), VECTOR: entry.vector}, option=_JSON))
    return count


def _read_jsonl(path: Path) -> Iterator[Entry]:
    for number, row in _json_lines(path):
        try:
            vector = np.array(row.get(VECTOR), np.float32)
        except (TypeError, ValueError):
            raise FileError(f"Row {number} has no vector.") from None
        yield to_entry(row, vector, number)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise FileError(f"Row {number} is not JSON.") from None
            if not isinstance(row, dict):
                raise FileError(f"Row {number} is not a JSON object.")
            yield number, row


def _write_npy(path: Path, entries: Iterable[Entry]) -> int:
    count, dimensions, space = 0, 0, None
    with path.open("wb") as file, path.with_suffix(".jsonl").open("wb") as rows:
        for count, entry in enumerate(entries, 1):
            if count == 1:
                dimensions, space = len(entry.vector), entry.space
                _write_header(file, 0, dimensions)
            if entry.space != space:
                raise FileError("The index has several spaces: choose one with --space.")
            file.write(entry.vector.astype("<f4").tobytes())
            rows.write(orjson.dumps(to_row(entry), option=_JSON))
        # The number of rows is known only now. Its digits fit into the padding of the header.
        file.seek(0)
        _write_header(file, count, dimensions)
    return count


def _write_header(file: BinaryIO, rows: int, dimensions: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == 128


def _read_npy(path: Path) -> Iterator[Entry]:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError):
        raise FileError(f"{path.name} is not a file of NumPy.") from None
    if vectors.ndim != 2:
        raise FileError(f"{path.name} does not have one vector per row.")
    number = 0
    for number, row in _json_lines(path.with_suffix(".jsonl")):
        if number > len(vectors):
            break
        yield to_entry(row, np.array(vectors[number - 1]), number)
    if number != len(vectors):
        raise FileError(f"{path.name} and {path.with_suffix('.jsonl').name} differ in their numbers of rows.")


def _write_parquet(path: Path, entries: Iterable[Entry]) -> int:
    arrow, parquet = _pyarrow()
    types = {str: arrow.string(), int: arrow.int64()}
    fields = [arrow.field(name, types[kind]) for name, kind in ROW_TYPES.items()]
    schema = arrow.schema([*fields, arrow.field(VECTOR, arrow.list_(arrow.float32()))])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batches(entries):
            rows = [{**to_row(entry), VECTOR: entry.vector} for entry in batch]
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            count += len(batch)
    return count


def _read_parquet(path: Path) -> Iterator[Entry]:
    arrow, parquet = _pyarrow()
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_SIZE, columns=[*ROW_TYPES, VECTOR]):
                if VECTOR not in batch.schema.names:
                    raise FileError(f"{path.name} has no column {VECTOR}.")
                vectors = batch.column(VECTOR).to_numpy(zero_copy_only=False)
                rows = batch.drop_columns([VECTOR]).to_pylist()
                for row, vector in zip(rows, vectors, strict=True):
                    number += 1
                    yield to_entry(row, vector if vector is not None else np.empty(0), number)
    except arrow.ArrowException:
        raise FileError(f"{path.name} is not a Parquet file.") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FileError(f"{missing_package('--format parquet', PYARROW)}.") from None
    return pyarrow, parquet


# By name, which is also the suffix of a file.
FORMATS = {
    "parquet": Format(_write_parquet, _read_parquet),
    "npy": Format(_write_npy, _read_npy),
    "jsonl": Format(_write_jsonl, _read_jsonl),
}
