"""Changes of rows in PostgreSQL, many in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from clip_embeddings.index.postgres_schema import Connection
from clip_embeddings.storage.types import RETRY_TIMEOUT


def write_rows(
    connection: Connection,
    statement: sql.Composed,
    parameters: Sequence[tuple[tuple[str, str], tuple[object, ...]]],
) -> list[bool]:
    """Run a statement for each row; whether it returned something, that is, changed the row.

    Args:
        parameters: for each row its bucket and name, and the parameters of the statement.
    """

    def key(position: int) -> tuple[bytes, bytes]:
        bucket, name = parameters[position][0]
        return bucket.encode(), name.encode()

    # In one order everywhere, so that writers wait for each other but never in a circle.
    order = sorted(range(len(parameters)), key=key)
    written = [False] * len(parameters)
    with connection.pipeline(), connection.cursor() as cursor:
        limit_waiting(connection)
        cursor.executemany(statement, [parameters[position][1] for position in order], returning=True)
        for position in order:
            written[position] = cursor.fetchone() is not None
            cursor.nextset()
    return written


def limit_waiting(connection: Connection) -> None:
    """Have this transaction give up after a while if others keep its rows locked."""
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(RETRY_TIMEOUT)}s"])
