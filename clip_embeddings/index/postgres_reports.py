"""Reports in PostgreSQL, in parts: a row for each."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from clip_embeddings.index.postgres_errors import table_names
from clip_embeddings.index.postgres_rows import escape
from clip_embeddings.index.postgres_schema import Connection

# Writers of one report wait for each other at its first part.
_WRITE = """
INSERT INTO {reports} (name, part, data) VALUES (%s, %s, %s)
ON CONFLICT (name, part) DO UPDATE SET data = excluded.data
"""


def write_report(connection: Connection, table: str, name: str, parts: Sequence[bytes]) -> None:
    """See Index.write_report. In one transaction."""
    with connection.cursor() as cursor:
        rows = [(escape(name), number, part) for number, part in enumerate(parts)]
        cursor.executemany(_compose(_WRITE, table), rows)
        remove = _compose("DELETE FROM {reports} WHERE name = %s AND part >= %s", table)
        cursor.execute(remove, [escape(name), len(parts)])


def read_report(connection: Connection, table: str, name: str, part: int) -> bytes | None:
    """See Index.read_report."""
    select = _compose("SELECT data FROM {reports} WHERE name = %s AND part = %s", table)
    row = connection.execute(select, [escape(name), part], binary=True).fetchone()
    return bytes(row[0]) if row else None


def _compose(template: str, table: str) -> sql.Composed:
    return sql.SQL(template).format(reports=sql.Identifier(table_names(table)[3]))
