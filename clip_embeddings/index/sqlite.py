"""An index in one SQLite file. Vectors are BLOBs; every process keeps one matrix per space to score them."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.matrix import Matrix
from clip_embeddings.index.sqlite_connections import connection_pool
from clip_embeddings.index.sqlite_rows import (
    COLUMNS,
    DELETE,
    UPSERT,
    claim_dimensions,
    entry_row,
    name_range,
    next_version,
    remove_expired,
    space_dimensions,
    to_entry,
)
from clip_embeddings.index.types import (
    Entry,
    Hit,
    check_dimensions,
    check_entry,
    check_generation,
    is_text,
    names_with_prefix,
    normalize,
    prefix_end,
)
from clip_embeddings.storage.types import ALL_NAMES, NameRange

# Rows that one transaction lists, few enough that it does not delay a checkpoint for long, and rows that are
# copied into a matrix at once.
PAGE_SIZE = 1000

# A filtered query first scores all entries and filters this many times k of the best.
OVERFETCH = 10


def open_index(url: str, tombstone_ttl: float) -> SqliteIndex:
    """The index at `sqlite:///folder/file`. Makes no file."""
    return SqliteIndex(Path(unquote(urlsplit(url).path)), tombstone_ttl)


class SqliteIndex:
    """The index in the file `path`, which the first call makes. See Index."""

    def __init__(self, path: Path, tombstone_ttl: float = IndexSettings.tombstone_ttl) -> None:
        self._tombstone_ttl = tombstone_ttl
        self._connections = connection_pool(path)
        # Guards the matrices. A query holds it from its first read of the file on, so that its matrix and its
        # reads show the same state.
        self._lock = threading.Lock()
        self._matrices: dict[str, Matrix] = {}
        # The number of replacements of the file after which the matrices were read.
        self._matrices_of = 0

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        checked = [check_entry(entry) for entry in entries]

        def write(connection: sqlite3.Connection) -> list[bool]:
            now, version = time.time(), next_version(connection)
            for entry in checked:
                claim_dimensions(connection, entry)
            rows = [(*entry_row(entry), version, now) for entry in checked]
            return [connection.execute(UPSERT, row).rowcount > 0 for row in rows]

        return self._connections.run(write, writes=True) if checked else []

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        check_generation(generation)
        if not is_text(bucket, name):
            return True

        def write(connection: sqlite3.Connection) -> bool:
            now, version = time.time(), next_version(connection)
            remove_expired(connection, now)
            tombstone = (bucket, name, 0 if forget else generation, version, now + self._tombstone_ttl)
            return connection.execute(DELETE, (*tombstone, generation, now)).rowcount > 0

        return self._connections.run(write, writes=True)

    def query(
        self,
        vector: np.ndarray,
        space: str,
        k: int,
        *,
        bucket: str | None = None,
        prefix: str = "",
        min_score: float | None = None,
    ) -> list[Hit]:
        query_vector = normalize(vector)
        if not is_text(space, bucket or "", prefix):
            return []

        def read(connection: sqlite3.Connection) -> list[Hit]:
            with self._lock:
                if self._matrices_of != self._connections.replacements:
                    self._matrices.clear()
                    self._matrices_of = self._connections.replacements
                dimensions = space_dimensions(connection, space)
                if dimensions is None:
                    return []
                check_dimensions(space, dimensions, len(query_vector))
                matrix = self._matrices.setdefault(space, Matrix(dimensions))
                _refresh(matrix, connection, space)
                scores = matrix.scores(query_vector)
                if bucket is None and not prefix:
                    return [_hit(connection, *scored) for scored in matrix.best(scores, k, min_score)]
                # Filters the top 10 k first; lists all matching ids only if that yields fewer than k.
                candidates = matrix.best(scores, OVERFETCH * k, min_score)
                hits = (_hit(connection, *scored) for scored in candidates)
                matching = list(islice((hit for hit in hits if _matches(hit.entry, bucket, prefix)), k))
                if len(matching) == k or len(candidates) < OVERFETCH * k:
                    return matching
                ids = _matching_ids(connection, space, bucket, prefix)
                return [_hit(connection, *scored) for scored in matrix.best(scores, k, min_score, ids)]

        return self._connections.run(read)

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        select = f"SELECT {COLUMNS}, vector FROM entries WHERE bucket = ? AND name = ? AND expires IS NULL"
        row = self._connections.run(lambda connection: connection.execute(select, (bucket, name)).fetchone())
        return to_entry(*row) if row else None

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[tuple[str, int, str]]:
        if not is_text(bucket, prefix):
            return
        names = names_with_prefix(prefix, within)
        start, comparison = names.start, ">="
        while True:
            condition, parameters = name_range(bucket, comparison, start, names.end)
            select = (
                f"SELECT name, generation, fingerprint FROM entries WHERE {condition} AND expires IS NULL"
                f" ORDER BY name LIMIT {PAGE_SIZE}"
            )
            rows = self._connections.run(
                lambda connection: connection.execute(select, parameters).fetchall()  # noqa: B023
            )
            yield from rows
            if len(rows) < PAGE_SIZE:
                return
            start, comparison = rows[-1][0], ">"

    def entries(self, space: str | None = None) -> Iterator[Entry]:
        if space is not None and not is_text(space):
            return
        select = (
            f"SELECT {COLUMNS}, vector FROM entries WHERE (bucket, name) > (?, ?) AND expires IS NULL"
            f" ORDER BY bucket, name LIMIT {PAGE_SIZE}"
        )
        last = ("", "")
        while True:
            page = self._connections.run(
                lambda connection: connection.execute(select, last).fetchall()  # noqa: B023
            )
            # Filtered here, because the index of names that is read in order holds all spaces.
            yield from (entry for entry in (to_entry(*row) for row in page) if space in (None, entry.space))
            if len(page) < PAGE_SIZE:
                return
            last = page[-1][:2]

    def count(self, space: str | None = None) -> int:
        condition, parameters = ("expires IS NULL", ()) if space is None else ("space = ?", (space,))
        if space is not None and not is_text(space):
            return 0
        select = f"SELECT count(*) FROM entries WHERE {condition}"
        row = self._connections.run(lambda connection: connection.execute(select, parameters).fetchone())
        return int(row[0])

    def replacements(self) -> int:
        return self._connections.check()


def _refresh(matrix: Matrix, connection: sqlite3.Connection, space: str) -> None:
    """Read into the matrix the changes since its last refresh, or all rows if removals may be missing."""
    version, swept = connection.execute("SELECT version, swept FROM state").fetchone()
    if matrix.version < swept or not matrix.version:
        matrix.clear()
    if matrix.version == version:
        return
    if matrix.version:
        removed = connection.execute(
            "SELECT id FROM entries WHERE version > ? AND space IS NOT ?", (matrix.version, space)
        )
        matrix.remove(id_ for (id_,) in removed)
    else:
        (count,) = connection.execute("SELECT count(*) FROM entries WHERE space = ?", (space,)).fetchone()
        matrix.reserve(count)
    rows = connection.execute(
        "SELECT id, vector FROM entries WHERE space = ? AND version > ? ORDER BY version, id",
        (space, matrix.version),
    )
    while page := rows.fetchmany(PAGE_SIZE):
        matrix.put([id_ for id_, _ in page], b"".join(vector for _, vector in page))
    matrix.version = version


def _matching_ids(connection: sqlite3.Connection, space: str, bucket: str | None, prefix: str) -> list[int]:
    condition, parameters = name_range(bucket, ">=", prefix, prefix_end(prefix))
    select = f"SELECT id FROM entries INDEXED BY by_name WHERE space = ? AND {condition}"
    return [id_ for (id_,) in connection.execute(select, (space, *parameters))]


def _matches(entry: Entry, bucket: str | None, prefix: str) -> bool:
    return entry.name.startswith(prefix) and bucket in (None, entry.bucket)


def _hit(connection: sqlite3.Connection, id_: int, score: float) -> Hit:
    row = connection.execute(f"SELECT {COLUMNS}, x'' FROM entries WHERE id = ?", (id_,)).fetchone()
    return Hit(to_entry(*row), score)
