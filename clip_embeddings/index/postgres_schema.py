"""The tables of an index in PostgreSQL: made and migrated under a lock, with a graph of vectors per space."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from clip_embeddings.index.checks import check_dimensions
from clip_embeddings.index.postgres_errors import table_names
from clip_embeddings.index.postgres_rows import escape, unescape
from clip_embeddings.postgres_url import PostgresUrl
from clip_embeddings.storage.types import REQUEST_TIMEOUT, StorageError

Connection = psycopg.Connection[tuple[Any, ...]]

# Identifies the lock under which tables and graphs are made; any number that nobody else uses. A lock of a
# transaction, because a pooler gives each transaction another session.
LOCK = 0x636C6970

# Each entry is one version: the statements that lead to it from the version before. Only ever append.
#
# A tombstone is a row without a vector that has `expires`. Vectors are stored in the row, uncompressed, as
# long as it fits into a page: by default PostgreSQL would move those above 2 KB elsewhere, and a search would
# read both places. Texts are compared by their bytes. `labels` and `probabilities` belong together; the
# indexes of the second version are for filters that few rows match. That of types has their beginnings: a key
# has at most a third of a page, and uploaders declare types of any length.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE {table} (
        bucket text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        generation bigint NOT NULL,
        expires timestamptz,
        space text COLLATE "C",
        fingerprint text,
        content_type text,
        size bigint,
        updated timestamptz,
        metadata json,
        vector vector,
        PRIMARY KEY (bucket, name)
    ) WITH (toast_tuple_target = 8160);
    ALTER TABLE {table} ALTER COLUMN vector SET STORAGE EXTERNAL;
    CREATE INDEX {by_name} ON {table} (space, name, bucket) WHERE space IS NOT NULL;
    CREATE INDEX {by_expiry} ON {table} (expires) WHERE expires IS NOT NULL;
    CREATE TABLE {spaces} (
        space text COLLATE "C" PRIMARY KEY,
        id int GENERATED ALWAYS AS IDENTITY,
        dimensions int NOT NULL
    );
    """,
    """
    ALTER TABLE {table}
        ADD COLUMN labels text[] COLLATE "C",
        ADD COLUMN probabilities double precision[],
        ADD COLUMN label_set text;
    CREATE INDEX {by_updated} ON {table} (space, updated) WHERE space IS NOT NULL;
    CREATE INDEX {by_type} ON {table} (space, left(lower(content_type COLLATE "C"), 256))
        WHERE space IS NOT NULL;
    CREATE INDEX {by_label} ON {table} USING gin (labels) WHERE labels IS NOT NULL;
    CREATE TABLE IF NOT EXISTS {reports} (
        name text COLLATE "C",
        part int,
        data bytea NOT NULL,
        PRIMARY KEY (name, part)
    );
    """,
)

# Dimensions up to which pgvector builds a graph, by the type of its vectors.
# https://github.com/pgvector/pgvector#hnsw
MAX_GRAPH_DIMENSIONS = {"vector": 2000, "halfvec": 4000}
# Neighbors of a vector in its graph, pgvector's default, and candidates for them, twice its default: building
# takes half as long again, and a search of 100,000 clustered vectors misses none of the ten nearest where it
# missed two in a hundred.
GRAPH_NEIGHBORS, GRAPH_CANDIDATES = 16, 128
# The first versions of pgvector with graphs, with `halfvec`, and with scans that go on until enough rows
# match.
GRAPHS, HALF_VECTORS, ITERATIVE_SCANS = (0, 5), (0, 7), (0, 8)


@dataclass(frozen=True)
class Extension:
    """The installed pgvector."""

    version: tuple[int, ...]

    @property
    def has_iterative_scans(self) -> bool:
        """Whether a scan of a graph can go on until enough rows match."""
        return self.version >= ITERATIVE_SCANS


def prepare(connection: Connection, url: PostgresUrl) -> Extension:
    """Make or migrate the tables, if that is needed, and check the extension.

    Raises:
        StorageError: the extension or the tables are not fit for this index.
        psycopg.Error: a right is missing.
    """
    version = _version(connection, url.table)
    if version is None or version < len(MIGRATIONS):
        with connection.transaction():
            _migrate(connection, url.table)
    elif version > len(MIGRATIONS):
        raise StorageError(
            f"The index {url.table} was made by a newer version of this software (schema {version}, here "
            f"{len(MIGRATIONS)}): deploy that version."
        )
    extension = _extension(connection)
    if url.vector_type == "halfvec" and extension.version < HALF_VECTORS:
        raise StorageError("vectors=halfvec needs pgvector 0.7 or newer: run ALTER EXTENSION vector UPDATE;")
    return extension


def space_dimensions(connection: Connection, table: str, space: str) -> int | None:
    """The number of dimensions of a space's vectors; None if the space is unknown."""
    select = _compose("SELECT dimensions FROM {spaces} WHERE space = %s", table)
    row = connection.execute(select, [escape(space)]).fetchone()
    return int(row[0]) if row else None


def claim_space(connection: Connection, url: PostgresUrl, space: str, dimensions: int, *, graph: bool) -> int:
    """The space's dimensions, which are `dimensions` if it is new.

    Args:
        graph: whether a new space gets its graph at once.

    Raises:
        EntryError: its dimensions are others.
    """
    _lock(connection)
    insert = "INSERT INTO {spaces} (space, dimensions) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING id"
    row = connection.execute(_compose(insert, url.table), [escape(space), dimensions]).fetchone()
    if row is not None:
        if graph and dimensions <= MAX_GRAPH_DIMENSIONS[url.vector_type]:
            connection.execute(graph_statement(url, space, dimensions, int(row[0])))
        return dimensions
    claimed = space_dimensions(connection, url.table, space) or dimensions
    check_dimensions(space, claimed, dimensions)
    return claimed


def build_missing_graphs(connection: Connection, url: PostgresUrl) -> None:
    """Make the graphs of the spaces that have none. Nothing can be written meanwhile."""
    _lock(connection)
    spaces = connection.execute(_compose("SELECT space, dimensions, id FROM {spaces}", url.table)).fetchall()
    for space, dimensions, number in spaces:
        name = _graph_name(url.table, number)
        row = connection.execute("SELECT to_regclass(%s)", [name]).fetchone()
        if row == (None,) and dimensions <= MAX_GRAPH_DIMENSIONS[url.vector_type]:
            connection.execute(graph_statement(url, unescape(space), dimensions, number))


def graph_statement(url: PostgresUrl, space: str, dimensions: int, number: int) -> sql.Composed:
    """CREATE INDEX for the graph of a space's rows, because one graph has vectors of one length."""
    return sql.SQL(
        "CREATE INDEX {name} ON {table} USING hnsw (({vector}) {operators})"
        " WITH (m = {m}, ef_construction = {ef_construction}) WHERE space = {space}"
    ).format(
        name=sql.Identifier(_graph_name(url.table, number)),
        table=sql.Identifier(url.table),
        vector=cast_vector(sql.SQL("vector"), url.vector_type, dimensions),
        operators=sql.SQL(f"{url.vector_type}_cosine_ops"),
        m=sql.Literal(GRAPH_NEIGHBORS),
        ef_construction=sql.Literal(GRAPH_CANDIDATES),
        space=sql.Literal(escape(space)),
    )


def cast_vector(value: sql.Composable, vector_type: str, dimensions: int) -> sql.Composed:
    """`value` as a graph holds it."""
    return sql.SQL("{}::{}({})").format(value, sql.SQL(vector_type), sql.Literal(dimensions))


def _graph_name(table: str, number: int) -> str:
    return f"{table}_graph_{number}"


def _version(connection: Connection, table: str) -> int | None:
    """The version of the tables; None if there are none."""
    try:
        with connection.transaction():
            row = connection.execute(_compose("SELECT version FROM {schema}", table)).fetchone()
    except errors.UndefinedTable:
        return None
    return int(row[0]) if row else None


def _migrate(connection: Connection, table: str) -> None:
    _lock(connection)
    # Read again: another process may have done it while this one waited.
    version = _version(connection, table)
    if version is None:
        _check_database(connection)
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        if _extension(connection).version < GRAPHS:
            raise StorageError("The index needs pgvector 0.5 or newer: run ALTER EXTENSION vector UPDATE;")
    try:
        for migration in MIGRATIONS[version or 0 :]:
            # Statements without parameters are sent together.
            connection.execute(_compose(migration, table))
        if version is None:
            connection.execute(_compose("CREATE TABLE {schema} (version int NOT NULL)", table))
            insert = _compose("INSERT INTO {schema} VALUES (%s)", table)
            connection.execute(insert, [len(MIGRATIONS)])
        else:
            connection.execute(_compose("UPDATE {schema} SET version = %s", table), [len(MIGRATIONS)])
    except errors.DuplicateTable:
        raise StorageError(
            f"The database has a table {table} or {table}_spaces that is no index: name another in INDEX_URL."
        ) from None


def _lock(connection: Connection) -> None:
    timeout = f"{int(REQUEST_TIMEOUT)}s"
    connection.execute(
        "SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s)", [timeout, LOCK]
    )


def _check_database(connection: Connection) -> None:
    (encoding,) = connection.execute("SHOW server_encoding").fetchone() or ("",)
    if encoding != "UTF8":
        raise StorageError(
            f"The database has the encoding {encoding}: run CREATE DATABASE name ENCODING 'UTF8' TEMPLATE "
            "template0; and name it in INDEX_URL."
        )


def _extension(connection: Connection) -> Extension:
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    if row is None:
        raise StorageError("pgvector was removed from the database: run CREATE EXTENSION vector;")
    return Extension(tuple(map(int, re.findall(r"\d+", row[0]))))


def _compose(template: str, table: str) -> sql.Composed:
    """A statement with the names of the index's tables."""
    entries, spaces, schema, reports = map(sql.Identifier, table_names(table))
    indexes = ("by_name", "by_expiry", "by_updated", "by_type", "by_label")
    return sql.SQL(template).format(
        table=entries,
        spaces=spaces,
        schema=schema,
        reports=reports,
        **{index: sql.Identifier(f"{table}_{index}") for index in indexes},
    )
