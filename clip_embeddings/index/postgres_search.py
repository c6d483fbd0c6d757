"""Searches in PostgreSQL: by a graph (HNSW), and exactly wherever the graph yields too few rows.

A graph yields the `ef_search` rows nearest to a vector, of which filters then remove some. So a filter that
few rows match is searched exactly from the start, and so is everything for which the graph fell short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql

from clip_embeddings.index.postgres_rows import COLUMNS, Vector, escape, to_entry
from clip_embeddings.index.postgres_schema import (
    MAX_GRAPH_DIMENSIONS,
    Connection,
    Extension,
    cast_vector,
)
from clip_embeddings.index.types import Hit, prefix_end
from clip_embeddings.postgres_url import PostgresUrl

# Rows that a graph collects: at least, at least for a filter, and for each row that is asked for. Recall and
# time grow with it; docs/performance.md has the measurement. Then the most that pgvector allows.
EF_SEARCH, EF_FILTERED, EF_PER_HIT, MAX_EF = 200, 250, 2, 1000
# A graph of 16-bit vectors yields so many times the rows that are asked for; those that are nearest by all
# bits are kept.
HALF_OVERFETCH = 4
# Rows up to which a filter is searched exactly from the start: a few milliseconds.
EXACT_ROWS = 2000

NO_VECTOR = np.empty(0, np.float32)

# Whether to scan the table, to sort and to compile depends on estimates, which are wrong for a table that was
# just filled; each search decides for itself.
GRAPH_SETTINGS = {"enable_sort": "off", "jit": "off"}
EXACT_SETTINGS = {"jit": "off"}
FEW_ROWS_SETTINGS = {"enable_seqscan": "off", "jit": "off"}


@dataclass(frozen=True)
class Search:
    """One query of an index. The texts are as the table has them."""

    url: PostgresUrl
    extension: Extension
    vector: np.ndarray
    space: str
    k: int
    bucket: str | None = None
    prefix: str = ""

    @property
    def has_filter(self) -> bool:
        """Whether only some of the space's rows match."""
        return self.bucket is not None or bool(self.prefix)


def run_search(connection: Connection, search: Search) -> list[Hit]:
    """The `k` nearest rows, or all that match if these are fewer, best first."""
    if len(search.vector) > MAX_GRAPH_DIMENSIONS[search.url.vector_type]:
        return _exact(connection, search, EXACT_SETTINGS)
    if search.has_filter and _matching_rows(connection, search) <= EXACT_ROWS:
        return _exact(connection, search, FEW_ROWS_SETTINGS)
    hits = _by_graph(connection, search)
    return hits if len(hits) == search.k else _exact(connection, search, EXACT_SETTINGS)


def _matching_rows(connection: Connection, search: Search) -> int:
    """The number of rows that match, counted up to one more than EXACT_ROWS."""
    count = sql.SQL("SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {condition} LIMIT %(most)s) AS rows")
    statement = count.format(table=sql.Identifier(search.url.table), condition=_condition(search))
    row = connection.execute(statement, {**_parameters(search), "most": EXACT_ROWS + 1}).fetchone()
    return int(row[0]) if row else 0


def _by_graph(connection: Connection, search: Search) -> list[Hit]:
    dimensions, vector_type = len(search.vector), search.url.vector_type
    ef_search = max(EF_FILTERED if search.has_filter else EF_SEARCH, EF_PER_HIT * search.k)
    fetched = search.k if vector_type == "vector" else min(MAX_EF, HALF_OVERFETCH * search.k)
    settings = {**GRAPH_SETTINGS, "hnsw.ef_search": str(min(MAX_EF, max(ef_search, fetched)))}
    if search.extension.has_iterative_scans:
        settings["hnsw.iterative_scan"] = "strict_order"
    # The same expression as the graph's, or the graph is not used.
    distance = sql.SQL("{} <=> {}").format(
        cast_vector(sql.SQL("vector"), vector_type, dimensions),
        cast_vector(sql.SQL("%(vector)s::vector"), vector_type, dimensions),
    )
    if vector_type == "vector":
        return _hits(connection, search, _select(search, distance, search.k), settings)
    # The few that are nearest by 16 bits, sorted once more.
    rank = sql.SQL(
        "SELECT {columns}, vector <=> %(vector)s AS distance FROM ("
        "SELECT * FROM {table} WHERE {condition} ORDER BY {half_distance} LIMIT {fetched}"
        ") AS nearest ORDER BY distance LIMIT {k}"
    ).format(
        columns=COLUMNS,
        table=sql.Identifier(search.url.table),
        condition=_condition(search),
        half_distance=distance,
        fetched=sql.Literal(fetched),
        k=sql.Literal(search.k),
    )
    return _hits(connection, search, rank, settings)


def _exact(connection: Connection, search: Search, settings: Mapping[str, str]) -> list[Hit]:
    # Without the graph's cast, so that the graph is not used.
    statement = _select(search, sql.SQL("vector <=> %(vector)s"), search.k)
    return _hits(connection, search, statement, settings)


def _select(search: Search, distance: sql.Composable, limit: int) -> sql.Composed:
    """The nearest matching rows: COLUMNS and the distance."""
    return sql.SQL(
        "SELECT {columns}, {distance} AS distance FROM {table} WHERE {condition}"
        " ORDER BY distance LIMIT {limit}"
    ).format(
        columns=COLUMNS,
        distance=distance,
        table=sql.Identifier(search.url.table),
        condition=_condition(search),
        limit=sql.Literal(limit),
    )


def _condition(search: Search) -> sql.Composed:
    # The space is a literal, because a graph is used only if the planner sees that it holds all rows.
    # Percent signs are doubled, because the statement has parameters.
    conditions = [sql.SQL("space = {}").format(sql.Literal(search.space.replace("%", "%%")))]
    if search.bucket is not None:
        conditions.append(sql.SQL("bucket = %(bucket)s").format())
    if search.prefix:
        conditions.append(sql.SQL("name >= %(prefix)s").format())
        if prefix_end(search.prefix) is not None:
            conditions.append(sql.SQL("name < %(end)s").format())
    return sql.SQL(" AND ").join(conditions)


def _parameters(search: Search) -> dict[str, Any]:
    return {
        "vector": Vector(search.vector),
        "bucket": search.bucket,
        "prefix": search.prefix,
        "end": prefix_end(search.prefix),
    }


def _hits(
    connection: Connection, search: Search, statement: sql.Composed, settings: Mapping[str, str]
) -> list[Hit]:
    """The hits of a statement that returns COLUMNS and the distance, run with settings of its own."""
    configure = sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        )
    )
    # Both are sent at once: one round trip.
    with connection.pipeline():
        connection.execute(configure)
        rows = connection.execute(statement, _parameters(search)).fetchall()
    return [Hit(to_entry(row, NO_VECTOR), 1 - row[-1]) for row in rows]


def make_search(
    url: PostgresUrl,
    extension: Extension,
    vector: np.ndarray,
    space: str,
    k: int,
    bucket: str | None,
    prefix: str,
) -> Search:
    """A search for texts as callers give them."""
    bucket = None if bucket is None else escape(bucket)
    return Search(url, extension, vector, escape(space), k, bucket, escape(prefix))
