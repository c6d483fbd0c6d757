"""The tables of an index in SQLite, and how entries become rows and rows entries."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

import numpy as np

from clip_embeddings.index.types import Entry, check_dimensions

# `version` grows with every change, and each row holds that of its last change, so a matrix reads only the
# rows that are newer than itself. A tombstone is a row without a vector that has `expires`. Removing an
# expired one raises `swept` to its version: a matrix older than `swept` may have missed a removal, and reads
# all rows again.
SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    bucket TEXT NOT NULL,
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    expires REAL,
    space TEXT,
    fingerprint TEXT,
    content_type TEXT,
    size INTEGER,
    updated TEXT,
    metadata TEXT,
    vector BLOB,
    UNIQUE (bucket, name)
);
CREATE INDEX IF NOT EXISTS by_version ON entries (version);
CREATE INDEX IF NOT EXISTS by_space ON entries (space, version) WHERE space IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_name ON entries (space, name, bucket) WHERE space IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_expiry ON entries (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS spaces (space TEXT PRIMARY KEY, dimensions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (version INTEGER NOT NULL, swept INTEGER NOT NULL);
INSERT INTO state SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM state);
"""

# The columns of `entry_row` and `to_entry`, in their order, without the vector that follows them.
COLUMNS = "bucket, name, generation, content_type, size, updated, space, fingerprint, metadata"

# Parameters: those of `entry_row`, the version, the present time.
UPSERT = f"""
INSERT INTO entries ({COLUMNS}, vector, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, version = excluded.version, expires = NULL,
    space = excluded.space, fingerprint = excluded.fingerprint, content_type = excluded.content_type,
    size = excluded.size, updated = excluded.updated, metadata = excluded.metadata, vector = excluded.vector
WHERE generation < excluded.generation
    OR generation = excluded.generation AND expires IS NULL
    OR expires <= ?
"""

# Parameters: bucket, name, the tombstone's generation, the version, its expiry, the newest generation to
# remove, the present time.
DELETE = """
INSERT INTO entries (bucket, name, generation, version, expires) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, version = excluded.version, expires = excluded.expires,
    space = NULL, fingerprint = NULL, content_type = NULL,
    size = NULL, updated = NULL, metadata = NULL, vector = NULL
WHERE generation <= ? OR expires <= ?
"""


def next_version(connection: sqlite3.Connection) -> int:
    """The version of the changes that this transaction makes."""
    rows = connection.execute("UPDATE state SET version = version + 1 RETURNING version").fetchall()
    return int(rows[0][0])


def space_dimensions(connection: sqlite3.Connection, space: str) -> int | None:
    """The number of dimensions of a space's vectors; None if the space is unknown."""
    row = connection.execute("SELECT dimensions FROM spaces WHERE space = ?", (space,)).fetchone()
    return int(row[0]) if row else None


def claim_dimensions(connection: sqlite3.Connection, entry: Entry) -> None:
    """Set the dimensions of the entry's space, if it is new. Raises EntryError if they are different."""
    given = len(entry.vector)
    connection.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?)", (entry.space, given))
    check_dimensions(entry.space, space_dimensions(connection, entry.space) or given, given)


def remove_expired(connection: sqlite3.Connection, now: float) -> None:
    """Remove the expired tombstones."""
    (swept,) = connection.execute("SELECT max(version) FROM entries WHERE expires <= ?", (now,)).fetchone()
    if swept is not None:
        connection.execute("DELETE FROM entries WHERE expires <= ?", (now,))
        connection.execute("UPDATE state SET swept = max(swept, ?)", (swept,))


def name_range(
    bucket: str | None, comparison: str, start: str, end: str | None
) -> tuple[str, tuple[str, ...]]:
    """An SQL condition on names from `start` to before `end`, of one bucket or of all, and its parameters.

    Args:
        comparison: `>=` to include `start`, `>` to exclude it.
        end: None for no upper bound.
    """
    conditions, parameters = [f"name {comparison} ?"], [start]
    if bucket is not None:
        conditions, parameters = ["bucket = ?", *conditions], [bucket, *parameters]
    if end is not None:
        conditions, parameters = [*conditions, "name < ?"], [*parameters, end]
    return " AND ".join(conditions), tuple(parameters)


def entry_row(entry: Entry) -> tuple[object, ...]:
    """The values of COLUMNS, and the vector as little-endian float32."""
    return (
        entry.bucket,
        entry.name,
        entry.generation,
        entry.content_type,
        entry.size,
        entry.updated.astimezone(UTC).isoformat(),
        entry.space,
        entry.fingerprint,
        json.dumps(dict(entry.metadata)),
        entry.vector.astype("<f4", copy=False).tobytes(),
    )


def to_entry(
    bucket: str,
    name: str,
    generation: int,
    content_type: str,
    size: int,
    updated: str,
    space: str,
    fingerprint: str,
    metadata: str,
    vector: bytes,
) -> Entry:
    """The entry of a row: the inverse of `entry_row`."""
    return Entry(
        bucket,
        name,
        generation,
        content_type,
        size,
        datetime.fromisoformat(updated),
        space,
        fingerprint,
        np.frombuffer(vector, "<f4"),
        json.loads(metadata),
    )
