"""Rows of an index in PostgreSQL, chosen at random."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from clip_embeddings.index.postgres_rows import COLUMNS, escape
from clip_embeddings.index.postgres_schema import Connection

# Pages that are read hold about so many times the rows that are needed: rows of other spaces and buckets may
# be among them, and the server's count of all rows is an estimate.
READ_MORE = 2.0

# The pages are chosen at random, and rows of these.
_OF_PAGES = """
SELECT {columns}, vector FROM {table} TABLESAMPLE SYSTEM (%(percent)s) WHERE {condition}
ORDER BY random() LIMIT %(count)s
"""
# The keys are chosen at random; they are all read, but from an index without vectors.
_OF_KEYS = """
SELECT {columns}, vector FROM {table} WHERE (bucket, name) IN (
    SELECT bucket, name FROM {table} WHERE {condition} ORDER BY random() LIMIT %(count)s
)
"""


def sample_rows(
    connection: Connection, table: str, space: str, count: int, bucket: str | None
) -> list[tuple[Any, ...]]:
    """Rows with COLUMNS and the vector: see Index.sample."""
    condition = "space = %(space)s" if bucket is None else "space = %(space)s AND bucket = %(bucket)s"
    parameters: dict[str, Any] = {
        "space": escape(space),
        "bucket": None if bucket is None else escape(bucket),
        "count": count,
    }

    def fetch(template: str) -> list[tuple[Any, ...]]:
        statement = sql.SQL(template).format(
            columns=COLUMNS, table=sql.Identifier(table), condition=sql.SQL(condition)
        )
        return connection.execute(statement, parameters, binary=True).fetchall()

    select = sql.SQL("SELECT reltuples FROM pg_class WHERE oid = to_regclass({})").format(sql.Literal(table))
    row = connection.execute(select).fetchone()
    # -1 as long as nobody has counted them.
    estimate = float(row[0]) if row else -1.0
    percent = 100 * READ_MORE * count / estimate if estimate > 0 else 100.0
    if percent < 100:
        parameters["percent"] = percent
        rows = fetch(_OF_PAGES)
        if len(rows) == count:
            return rows
    return fetch(_OF_KEYS)
