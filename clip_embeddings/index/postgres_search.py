"""Searches in PostgreSQL: by a graph (HNSW), and exactly wherever the graph yields too few rows.

A graph yields the `ef_search` rows nearest to a vector, of which filters then remove some. So a filter that
few rows match is searched exactly from the start, and so is everything for which the graph fell short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from psycopg import sql

from clip_embeddings.index.postgres_rows import COLUMNS, Vector, escape, parse_vector, to_entry
from clip_embeddings.index.postgres_schema import (
    MAX_GRAPH_DIMENSIONS,
    Connection,
    Extension,
    cast_vector,
)
from clip_embeddings.index.types import EVERYTHING, Filter, Hit, ascii_lower, prefix_end, type_prefix
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
    where: Filter = EVERYTHING
    with_vectors: bool = False


def run_search(connection: Connection, search: Search) -> list[Hit]:
    """The `k` nearest rows, or all that match if these are fewer, best first."""
    if len(search.vector) > MAX_GRAPH_DIMENSIONS[search.url.vector_type]:
        return _exact(connection, search, EXACT_SETTINGS)
    if search.where != EVERYTHING and _matching_rows(connection, search) <= EXACT_ROWS:
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
    ef_search = max(EF_FILTERED if search.where != EVERYTHING else EF_SEARCH, EF_PER_HIT * search.k)
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
        "SELECT {columns}, {vector}, vector <=> %(vector)s AS distance FROM ("
        "SELECT * FROM {table} WHERE {condition} ORDER BY {half_distance} LIMIT {fetched}"
        ") AS nearest ORDER BY distance LIMIT {k}"
    ).format(
        columns=COLUMNS,
        vector=_returned_vector(search),
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
    """The nearest matching rows: COLUMNS, the vector or NULL, and the distance."""
    return sql.SQL(
        "SELECT {columns}, {vector}, {distance} AS distance FROM {table} WHERE {condition}"
        " ORDER BY distance LIMIT {limit}"
    ).format(
        columns=COLUMNS,
        vector=_returned_vector(search),
        distance=distance,
        table=sql.Identifier(search.url.table),
        condition=_condition(search),
        limit=sql.Literal(limit),
    )


def _returned_vector(search: Search) -> sql.SQL:
    return sql.SQL("vector" if search.with_vectors else "NULL")


def _condition(search: Search) -> sql.Composed:
    # The space is a literal, because a graph is used only if the planner sees that it holds all rows.
    # Percent signs are doubled, because the statement has parameters.
    conditions = [sql.SQL("space = {}").format(sql.Literal(search.space.replace("%", "%%")))]
    where, type_ = search.where, 'lower(content_type COLLATE "C")'
    is_exact = where.content_type is not None and type_prefix(where.content_type) is None
    filters = {
        "bucket = %(bucket)s": where.bucket is not None,
        "name >= %(prefix)s": bool(where.prefix),
        "name < %(end)s": prefix_end(where.prefix) is not None,
        "updated >= %(updated_from)s": where.updated_from is not None,
        "updated < %(updated_before)s": where.updated_before is not None,
        # The form that an index of arrays serves.
        "labels @> ARRAY[%(label)s::text]": where.label is not None,
        # The first is what the index of types has.
        f"left({type_}, 256) = left(%(type)s::text, 256) AND {type_} = %(type)s": is_exact,
        # In a form that no index serves: most rows match, whatever the planner believes.
        f"left({type_}, length(%(type)s::text)) = %(type)s": where.content_type is not None and not is_exact,
    }
    conditions += [sql.SQL(condition).format() for condition, used in filters.items() if used]
    return sql.SQL(" AND ").join(conditions)


def _parameters(search: Search) -> dict[str, Any]:
    where, type_ = search.where, search.where.content_type
    return {
        "vector": Vector(search.vector),
        "bucket": where.bucket,
        "prefix": where.prefix,
        "end": prefix_end(where.prefix),
        "updated_from": where.updated_from,
        "updated_before": where.updated_before,
        "label": where.label,
        "type": None if type_ is None else ascii_lower(type_prefix(type_) or type_),
    }


def _hits(
    connection: Connection, search: Search, statement: sql.Composed, settings: Mapping[str, str]
) -> list[Hit]:
    """The hits of a statement that returns COLUMNS, a vector or NULL, and the distance.

    It is run with settings of its own.
    """
    configure = sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        )
    )
    # Both are sent at once: one round trip.
    with connection.pipeline():
        connection.execute(configure)
        # In binary form, because that is the one in which vectors are read.
        rows = connection.execute(statement, _parameters(search), binary=True).fetchall()
    return [
        Hit(to_entry(row, NO_VECTOR if row[-2] is None else parse_vector(row[-2])), 1 - row[-1])
        for row in rows
    ]


def make_search(
    url: PostgresUrl,
    extension: Extension,
    vector: np.ndarray,
    space: str,
    k: int,
    where: Filter,
    *,
    with_vectors: bool,
) -> Search:
    """A search for texts as callers give them."""

    def escaped(text: str | None) -> str | None:
        return None if text is None else escape(text)

    where = replace(
        where,
        bucket=escaped(where.bucket),
        prefix=escape(where.prefix),
        label=escaped(where.label),
        content_type=escaped(where.content_type),
    )
    return Search(url, extension, vector, escape(space), k, where, with_vectors)
