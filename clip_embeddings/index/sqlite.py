"""An index in one SQLite file. Vectors are BLOBs; every process keeps one matrix per space to score them."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.checks import (
    check_dimensions,
    check_entry,
    check_generation,
    check_labels,
    is_text,
    normalize,
)
from clip_embeddings.index.matrix import Matrix
from clip_embeddings.index.sqlite_connections import connection_pool
from clip_embeddings.index.sqlite_rows import (
    COLUMNS,
    DELETE,
    SET_LABELS,
    UPSERT,
    claim_dimensions,
    entry_row,
    labels_json,
    name_range,
    next_version,
    remove_expired,
    space_dimensions,
    to_entry,
)
from clip_embeddings.index.sqlite_search import Search, nearest, refresh, sample
from clip_embeddings.index.types import (
    EVERYTHING,
    Entry,
    Filter,
    Hit,
    IndexedVersion,
    LabelChange,
    QueryResult,
    names_with_prefix,
)
from clip_embeddings.storage.types import ALL_NAMES, NameRange

# Rows that one transaction lists, few enough that it does not delay a checkpoint for long.
PAGE_SIZE = 1000


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
        where: Filter = EVERYTHING,
        *,
        min_score: float | None = None,
        with_vectors: bool = False,
    ) -> QueryResult:
        query_vector = normalize(vector)
        if not is_text(space, *where.texts):
            return QueryResult([])

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
                refresh(matrix, connection, space)
                scores = matrix.scores(query_vector)
                return nearest(connection, matrix, scores, Search(space, k, where, min_score, with_vectors))

        return QueryResult(self._connections.run(read))

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        select = f"SELECT {COLUMNS}, vector FROM entries WHERE bucket = ? AND name = ? AND expires IS NULL"
        row = self._connections.run(lambda connection: connection.execute(select, (bucket, name)).fetchone())
        return to_entry(*row) if row else None

    def get_many(self, bucket: str, names: Sequence[str]) -> list[Entry | None]:
        select = f"SELECT {COLUMNS}, x'' FROM entries WHERE bucket = ? AND name = ? AND expires IS NULL"

        def read(connection: sqlite3.Connection) -> list[Entry | None]:
            rows = (
                connection.execute(select, (bucket, name)).fetchone() if is_text(bucket, name) else None
                for name in names
            )
            return [to_entry(*row) if row else None for row in rows]

        return self._connections.run(read)

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[IndexedVersion]:
        if not is_text(bucket, prefix):
            return
        names = names_with_prefix(prefix, within)
        start, comparison = names.start, ">="
        while True:
            condition, parameters = name_range(bucket, comparison, start, names.end)
            select = (
                f"SELECT name, generation, fingerprint, coalesce(label_set, '') FROM entries"
                f" WHERE {condition} AND expires IS NULL ORDER BY name LIMIT {PAGE_SIZE}"
            )
            rows = self._connections.run(
                lambda connection: connection.execute(select, parameters).fetchall()  # noqa: B023
            )
            yield from map(IndexedVersion._make, rows)
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

    def set_labels(self, changes: Sequence[LabelChange]) -> list[bool]:
        rows = [
            (
                labels_json(check_labels(change.labels, change.label_set)),
                change.label_set,
                *change[:3],
            )
            for change in changes
        ]
        return self._connections.run(
            lambda connection: [
                is_text(*row[2:4]) and connection.execute(SET_LABELS, row).rowcount > 0 for row in rows
            ],
            writes=True,
        )

    def sample(self, space: str, count: int, *, bucket: str | None = None) -> list[Entry]:
        if not is_text(space, bucket or ""):
            return []
        return self._connections.run(lambda connection: sample(connection, space, count, bucket))

    def write_report(self, name: str, parts: Sequence[bytes]) -> None:
        rows = [(name, number, part) for number, part in enumerate(parts)]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM reports WHERE name = ?", (name,))
            connection.executemany("INSERT INTO reports VALUES (?, ?, ?)", rows)

        self._connections.run(write, writes=True)

    def read_report(self, name: str, part: int) -> bytes | None:
        select = "SELECT data FROM reports WHERE name = ? AND part = ?"
        row = self._connections.run(lambda connection: connection.execute(select, (name, part)).fetchone())
        return row[0] if row else None

    def replacements(self) -> int:
        return self._connections.check()
