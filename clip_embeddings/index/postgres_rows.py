"""The rows of an index in PostgreSQL: the statements that change them, and how entries become rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from clip_embeddings.index.checks import check_labels
from clip_embeddings.index.types import Entry, EntryError, LabelChange

# Bytes that an entry's bucket and name may have together: a key has at most a third of a page of 8 KiB.
# https://www.postgresql.org/docs/current/btree.html
MAX_KEY_BYTES = 2600

# `updated` without its zone, which is UTC: the zone of a session would depend on the server's configuration.
COLUMNS = sql.SQL(
    "bucket, name, generation, content_type, size, updated AT TIME ZONE 'UTC', space, fingerprint, metadata,"
    " labels, probabilities, label_set"
)

# A row of a newer generation, or the tombstone of one that was removed, stays. The row is locked while it is
# compared, so no isolation level loses an update; the stricter ones raise a serialization failure instead.
_UPSERT = """
INSERT INTO {table} AS present (bucket, name, generation, content_type, size, updated, space, fingerprint,
    metadata, labels, probabilities, label_set, vector)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, expires = NULL, content_type = excluded.content_type,
    size = excluded.size, updated = excluded.updated, space = excluded.space,
    fingerprint = excluded.fingerprint, metadata = excluded.metadata, labels = excluded.labels,
    probabilities = excluded.probabilities, label_set = excluded.label_set, vector = excluded.vector
WHERE present.generation < excluded.generation
    OR present.generation = excluded.generation AND present.expires IS NULL
    OR present.expires <= clock_timestamp()
RETURNING true
"""
# Times are the server's, so that the clocks of many writers need not agree.
_DELETE = """
INSERT INTO {table} AS present (bucket, name, generation, expires)
VALUES (%(bucket)s, %(name)s, %(tombstone)s, clock_timestamp() + make_interval(secs => %(ttl)s))
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, expires = excluded.expires, content_type = NULL, size = NULL,
    updated = NULL, space = NULL, fingerprint = NULL, metadata = NULL, labels = NULL,
    probabilities = NULL, label_set = NULL, vector = NULL
WHERE present.generation <= %(generation)s OR present.expires <= clock_timestamp()
RETURNING true
"""
_SET_LABELS = """
UPDATE {table} SET labels = %s, probabilities = %s, label_set = %s
WHERE bucket = %s AND name = %s AND generation = %s AND expires IS NULL
RETURNING true
"""
# Skips what others are changing, so that it waits for nobody.
_SWEEP = """
DELETE FROM {table} WHERE (bucket, name) IN (
    SELECT bucket, name FROM {table} WHERE expires <= clock_timestamp() LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""


@dataclass(frozen=True)
class Vector:
    """A vector as a parameter of a statement: (d,) float32."""

    values: np.ndarray


class VectorDumper(Dumper):
    """Sends a Vector in pgvector's binary form; the server takes its type from the statement.

    Two 16-bit numbers, the dimensions and a zero, then the values as 32-bit floats, all big-endian.
    https://github.com/pgvector/pgvector/blob/v0.6.2/src/vector.c#L383
    """

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Vector) -> Buffer:
        header = np.array([len(obj.values), 0], ">u2").tobytes()
        return header + obj.values.astype(">f4").tobytes()


def parse_vector(data: bytes) -> np.ndarray:
    """(d,) float32 from pgvector's binary form."""
    return np.frombuffer(data, ">f4", offset=4).astype(np.float32)


def statement(template: str, table: str) -> sql.Composed:
    """A statement for the rows of `table`."""
    return sql.SQL(template).format(table=sql.Identifier(table))


def upsert(table: str) -> sql.Composed:
    """Writes the row of `entry_row` unless a newer one is there; returns a row if it did."""
    return statement(_UPSERT, table)


def delete(table: str) -> sql.Composed:
    """Replaces a row by a tombstone unless it is newer; returns a row if it did.

    Parameters: bucket, name, generation, tombstone (the generation to keep), ttl (seconds).
    """
    return statement(_DELETE, table)


def sweep(table: str) -> sql.Composed:
    """Removes expired tombstones, a thousand at most."""
    return statement(_SWEEP, table)


def set_labels(table: str) -> sql.Composed:
    """Writes the labels of `label_row` if that generation is there; returns a row if it did."""
    return statement(_SET_LABELS, table)


def entry_row(entry: Entry) -> tuple[object, ...]:
    """The parameters of `upsert`."""
    return (
        escape(entry.bucket),
        escape(entry.name),
        entry.generation,
        escape(entry.content_type),
        entry.size,
        entry.updated.astimezone(UTC),
        escape(entry.space),
        escape(entry.fingerprint),
        # Only ASCII, so that even a NUL is text to PostgreSQL.
        json.dumps(dict(entry.metadata)),
        *_label_columns(entry.labels, entry.label_set),
        Vector(entry.vector),
    )


def label_row(change: LabelChange) -> tuple[object, ...]:
    """The parameters of `set_labels`."""
    labels = check_labels(change.labels, change.label_set)
    key = (escape(change.bucket), escape(change.name), change.generation)
    return (*_label_columns(labels, change.label_set), *key)


def _label_columns(labels: Mapping[str, float], label_set: str) -> tuple[object, ...]:
    return [escape(label) for label in labels], list(labels.values()), escape(label_set)


def to_entry(row: Sequence[Any], vector: np.ndarray) -> Entry:
    """The entry of a row that begins with COLUMNS."""
    bucket, name, generation, content_type, size, updated, space, fingerprint, metadata, *rest = row
    # Missing in rows that were written before there were labels.
    labels, probabilities, label_set = rest[:3]
    return Entry(
        bucket=unescape(bucket),
        name=unescape(name),
        generation=generation,
        content_type=unescape(content_type),
        size=size,
        updated=_utc(updated),
        space=unescape(space),
        fingerprint=unescape(fingerprint),
        vector=vector,
        metadata=metadata,
        labels=dict(zip(map(unescape, labels or ()), probabilities or (), strict=True)),
        label_set=unescape(label_set or ""),
    )


def check_key(entry: Entry) -> None:
    """Raises EntryError if the entry's bucket and name are too long for a primary key."""
    if len(escape(entry.bucket).encode()) + len(escape(entry.name).encode()) > MAX_KEY_BYTES:
        raise EntryError(f"The bucket and the name of an object have more than {MAX_KEY_BYTES:,} bytes.")


# PostgreSQL's text holds every character but NUL. Two characters stand for it, and for the first of these
# two; the order of the bytes and "starts with" stay the same.
def escape(text: str) -> str:
    """`text` without NUL: a text that PostgreSQL takes."""
    return text.replace("\x01", "\x01\x02").replace("\0", "\x01\x01")


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return text.replace("\x01\x01", "\0").replace("\x01\x02", "\x01") if "\x01" in text else text


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC)


def configure(connection: Connection[Any]) -> None:
    """Have a connection send vectors."""
    connection.adapters.register_dumper(Vector, VectorDumper)
