"""An index in a table of PostgreSQL, with pgvector: `postgresql://user@host/database?table=photos`.

The graph of each space is searched approximately; see postgres_search. Every change is one statement that
compares generations itself, so it does not matter which isolation level the server's transactions have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from psycopg import IsolationLevel, sql

from clip_embeddings.config import IndexSettings
from clip_embeddings.index import postgres_rows as rows
from clip_embeddings.index.checks import check_dimensions, check_entry, check_generation, is_text, normalize
from clip_embeddings.index.postgres_changes import limit_waiting, write_rows
from clip_embeddings.index.postgres_pool import PostgresPool
from clip_embeddings.index.postgres_reports import read_report, write_report
from clip_embeddings.index.postgres_sample import sample_rows
from clip_embeddings.index.postgres_schema import (
    Connection,
    Extension,
    build_missing_graphs,
    claim_space,
    prepare,
    space_dimensions,
)
from clip_embeddings.index.postgres_search import NO_VECTOR, make_search, run_search
from clip_embeddings.index.types import (
    EVERYTHING,
    Entry,
    Filter,
    IndexedVersion,
    LabelChange,
    QueryResult,
    names_with_prefix,
)
from clip_embeddings.postgres_url import PostgresUrl, parse_postgres_url
from clip_embeddings.storage.types import ALL_NAMES, NameRange

T = TypeVar("T", Entry, LabelChange)

# Rows of one listing.
PAGE_SIZE = 1000
# Seconds between two removals of expired tombstones by one process.
SWEEP_SECONDS = 60.0


def open_index(url: str, tombstone_ttl: float) -> PostgresIndex:
    """The index at a `postgresql://` URL. Connects to nothing. Raises ValueError if a part of it is wrong."""
    return PostgresIndex(parse_postgres_url(url), tombstone_ttl)


class PostgresIndex:
    """The index in one table, which the first call makes. See Index."""

    def __init__(
        self,
        url: PostgresUrl,
        tombstone_ttl: float = IndexSettings.tombstone_ttl,
        isolation_level: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> None:
        self._url = url
        self._tombstone_ttl = tombstone_ttl
        self._extension: Extension | None = None
        self._pool = PostgresPool(url, self._prepare, isolation_level)
        # The number of dimensions of each space. It does not change as long as the tables are there.
        self._dimensions: dict[str, int] = {}
        self._next_sweep = 0.0
        self._builds_graphs_later = False

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        checked = [check_entry(entry) for entry in entries]
        for entry in checked:
            rows.check_key(entry)
            check_dimensions(entry.space, self._claim_dimensions(entry), len(entry.vector))
        return self._write(rows.upsert(self._url.table), checked, rows.entry_row)

    def set_labels(self, changes: Sequence[LabelChange]) -> list[bool]:
        checked = [change for change in changes if is_text(change.bucket, change.name)]
        written = iter(self._write(rows.set_labels(self._url.table), checked, rows.label_row))
        return [is_text(change.bucket, change.name) and next(written) for change in changes]

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        check_generation(generation)
        if not is_text(bucket, name):
            return True
        parameters = {
            "bucket": rows.escape(bucket),
            "name": rows.escape(name),
            "generation": generation,
            "tombstone": 0 if forget else generation,
            "ttl": self._tombstone_ttl,
        }

        def write(connection: Connection) -> bool:
            with connection.pipeline():
                limit_waiting(connection)
                return connection.execute(rows.delete(self._url.table), parameters).fetchone() is not None

        deleted = self._pool.run(write)
        if time.monotonic() > self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self._pool.run(lambda connection: connection.execute(rows.sweep(self._url.table)).rowcount)
        return deleted

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
        if not is_text(space, *where.texts) or (dimensions := self._space_dimensions(space)) is None:
            return QueryResult([])
        check_dimensions(space, dimensions, len(query_vector))
        assert self._extension is not None
        search = make_search(
            self._url, self._extension, query_vector, space, k, where, with_vectors=with_vectors
        )
        hits = self._pool.run(partial(run_search, search=search))
        return QueryResult([hit for hit in hits if min_score is None or hit.score >= min_score])

    def sample(self, space: str, count: int, *, bucket: str | None = None) -> list[Entry]:
        if not is_text(space, bucket or ""):
            return []
        run = partial(sample_rows, table=self._url.table, space=space, count=count, bucket=bucket)
        return [rows.to_entry(row, rows.parse_vector(row[-1])) for row in self._pool.run(run)]

    def write_report(self, name: str, parts: Sequence[bytes]) -> None:
        self._pool.run(partial(write_report, table=self._url.table, name=name, parts=parts))

    def read_report(self, name: str, part: int) -> bytes | None:
        return self._pool.run(partial(read_report, table=self._url.table, name=name, part=part))

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        select = self._compose(
            "SELECT {columns}, vector FROM {table} WHERE bucket = %s AND name = %s AND expires IS NULL"
        )
        row = self._fetch(select, [rows.escape(bucket), rows.escape(name)])
        return rows.to_entry(row[0], rows.parse_vector(row[0][-1])) if row else None

    def get_many(self, bucket: str, names: Sequence[str]) -> list[Entry | None]:
        if not is_text(bucket):
            return [None] * len(names)
        select = self._compose(
            "SELECT {columns} FROM {table} WHERE bucket = %s AND name = ANY(%s) AND expires IS NULL"
        )
        wanted = [rows.escape(name) for name in names if is_text(name)]
        page = self._fetch(select, [rows.escape(bucket), wanted])
        entries = {entry.name: entry for entry in (rows.to_entry(row, NO_VECTOR) for row in page)}
        return [entries.get(name) for name in names]

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[IndexedVersion]:
        if not is_text(bucket, prefix):
            return
        # Escaped names have the order of the names.
        names = names_with_prefix(prefix, within)
        parameters: dict[str, Any] = {
            "bucket": rows.escape(bucket),
            "start": rows.escape(names.start),
            "end": None if names.end is None else rows.escape(names.end),
            "limit": PAGE_SIZE,
        }
        conditions, comparison = "AND name < %(end)s" if parameters["end"] is not None else "", ">="
        while True:
            select = self._compose(
                f"SELECT name, generation, fingerprint, label_set FROM {{table}} WHERE bucket = %(bucket)s"
                f" AND name {comparison} %(start)s {conditions} AND expires IS NULL"
                " ORDER BY name LIMIT %(limit)s"
            )
            page = self._fetch(select, parameters)
            for name, generation, fingerprint, label_set in page:
                yield IndexedVersion(
                    rows.unescape(name),
                    generation,
                    rows.unescape(fingerprint),
                    rows.unescape(label_set or ""),
                )
            if len(page) < PAGE_SIZE:
                return
            parameters["start"], comparison = page[-1][0], ">"

    def entries(self, space: str | None = None) -> Iterator[Entry]:
        if space is not None and not is_text(space):
            return
        condition = "space IS NOT NULL" if space is None else "space = %(space)s"
        select = self._compose(
            f"SELECT {{columns}}, vector FROM {{table}} WHERE {condition}"
            " AND (bucket, name) > (%(bucket)s, %(name)s) ORDER BY bucket, name LIMIT %(limit)s"
        )
        parameters = {"space": space and rows.escape(space), "bucket": "", "name": "", "limit": PAGE_SIZE}
        while True:
            page = self._fetch(select, parameters)
            for row in page:
                yield rows.to_entry(row, rows.parse_vector(row[-1]))
            if len(page) < PAGE_SIZE:
                return
            parameters["bucket"], parameters["name"] = page[-1][:2]

    def count(self, space: str | None = None) -> int:
        if space is not None and not is_text(space):
            return 0
        # Both conditions are those of an index without vectors, which is small.
        condition = "space IS NOT NULL" if space is None else "space = %s"
        select = self._compose(f"SELECT count(*) FROM {{table}} WHERE {condition}")
        return int(self._fetch(select, [] if space is None else [rows.escape(space)])[0][0])

    def replacements(self) -> int:
        return self._pool.replacements

    @contextmanager
    def bulk_loading(self) -> Iterator[None]:
        """Build the graphs of spaces that are new in this block at its end.

        That is several times faster than adding rows to a graph, one after the other. If the process dies in
        it, searches are exact, and slow, until another such block ends.
        """
        self._builds_graphs_later = True
        try:
            yield
        finally:
            self._builds_graphs_later = False
            # Also after an error, because what was written must be found.
            self._pool.run(partial(build_missing_graphs, url=self._url))

    def close(self) -> None:
        """Close the connections. The next call makes new ones."""
        self._pool.close()

    def _write(
        self, statement: sql.Composed, changes: Sequence[T], row: Callable[[T], tuple[object, ...]]
    ) -> list[bool]:
        parameters = [((change.bucket, change.name), row(change)) for change in changes]
        run = partial(write_rows, statement=statement, parameters=parameters)
        return self._pool.run(run) if changes else []

    def _fetch(self, select: sql.Composed, parameters: Any) -> list[tuple[Any, ...]]:
        return self._pool.run(
            lambda connection: connection.execute(select, parameters, binary=True).fetchall()
        )

    def _compose(self, template: str) -> sql.Composed:
        return sql.SQL(template).format(columns=rows.COLUMNS, table=sql.Identifier(self._url.table))

    def _prepare(self, connection: Connection) -> None:
        self._extension = prepare(connection, self._url)
        self._dimensions.clear()

    def _space_dimensions(self, space: str) -> int | None:
        if space not in self._dimensions:
            dimensions = self._pool.run(partial(space_dimensions, table=self._url.table, space=space))
            if dimensions is None:
                return None
            self._dimensions[space] = dimensions
        return self._dimensions[space]

    def _claim_dimensions(self, entry: Entry) -> int:
        if (dimensions := self._space_dimensions(entry.space)) is not None:
            return dimensions
        given = len(entry.vector)
        self._dimensions[entry.space] = self._pool.run(
            partial(
                claim_space,
                url=self._url,
                space=entry.space,
                dimensions=given,
                graph=not self._builds_graphs_later,
            )
        )
        return self._dimensions[entry.space]
