"""The rows of an index in SQLite: the statements that change them, and how entries become rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from clip_embeddings.index.checks import check_dimensions
from clip_embeddings.index.types import Entry, Filter, ascii_lower, prefix_end, type_prefix

# The columns of `entry_row` and `to_entry`, in their order, without the vector that follows them.
COLUMNS = (
    "bucket, name, generation, content_type, size, updated, space, fingerprint, metadata, labels, label_set"
)

# Parameters: those of `entry_row`, the version, the present time.
UPSERT = f"""
INSERT INTO entries ({COLUMNS}, vector, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, version = excluded.version, expires = NULL,
    space = excluded.space, fingerprint = excluded.fingerprint, content_type = excluded.content_type,
    size = excluded.size, updated = excluded.updated, metadata = excluded.metadata, labels = excluded.labels,
    label_set = excluded.label_set, vector = excluded.vector
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
    size = NULL, updated = NULL, metadata = NULL, labels = NULL, label_set = NULL, vector = NULL
WHERE generation <= ? OR expires <= ?
"""

# Parameters: labels, label set, bucket, name, generation. The version stays, because no vector changes.
SET_LABELS = """
UPDATE entries SET labels = ?, label_set = ?
WHERE bucket = ? AND name = ? AND generation = ? AND expires IS NULL
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
        labels_json(entry.labels),
        entry.label_set,
        entry.vector.astype("<f4", copy=False).tobytes(),
    )


def _read_json(text: str) -> Mapping[str, Any]:
    # Most entries have none, and a search reads two of these for each of its results.
    value: Mapping[str, Any] = {} if text == "{}" else json.loads(text)
    return value


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
    labels: str | None,
    label_set: str | None,
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
        _read_json(metadata),
        # Files that were made before there were labels have none here.
        _read_json(labels or "{}"),
        label_set or "",
    )


def labels_json(labels: Mapping[str, float]) -> str:
    """Labels as the rows hold them, in the form that `filter_condition` searches."""
    return json.dumps(dict(labels))


def filter_condition(where: Filter) -> tuple[str, tuple[object, ...]]:
    """An SQL condition for the entries that match, and its parameters.

    All its columns are in the index `by_name`, so the large rows of the table are not read.
    """
    condition, names = name_range(where.bucket, ">=", where.prefix, prefix_end(where.prefix))
    conditions, parameters = [condition], list[object](names)
    # Times are texts of one form in one zone, so their order is that of time.
    for comparison, time in ((">=", where.updated_from), ("<", where.updated_before)):
        if time is not None:
            conditions.append(f"updated {comparison} ?")
            parameters.append(time.astimezone(UTC).isoformat())
    if where.label is not None:
        # A key of a JSON object, in which quotation marks are escaped, so nothing else has these characters.
        key = json.dumps(where.label)
        conditions.append("(instr(labels, ?) = 1 OR instr(labels, ?) > 0)")
        parameters += [f"{{{key}: ", f", {key}: "]
    if where.content_type is not None:
        prefix = type_prefix(where.content_type)
        if prefix is None:
            conditions.append("lower(content_type) = ?")
            parameters.append(ascii_lower(where.content_type))
        else:
            conditions.append("substr(lower(content_type), 1, ?) = ?")
            parameters += [len(prefix), ascii_lower(prefix)]
    return " AND ".join(conditions), tuple(parameters)
