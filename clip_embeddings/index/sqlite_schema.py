"""The tables of an index in SQLite: made and migrated as the file is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from clip_embeddings.storage.types import StorageError

# `version` grows with every change, and each row holds that of its last change, so a matrix reads only the
# rows that are newer than itself. A tombstone is a row without a vector that has `expires`. Removing an
# expired one raises `swept` to its version: a matrix older than `swept` may have missed a removal, and reads
# all rows again.
_FIRST = """
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

# Each entry is one version: the statements that lead to it from the version before, none of which contains a
# semicolon. Only ever append. Files of the first version do not say so: their version is 0, and its
# statements change nothing in them.
#
# A filter reads `by_name` alone, which has all that it compares. `labels` is JSON.
MIGRATIONS: tuple[str, ...] = (
    _FIRST,
    """
ALTER TABLE entries ADD COLUMN labels TEXT;
ALTER TABLE entries ADD COLUMN label_set TEXT;
DROP INDEX by_name;
CREATE INDEX by_name ON entries (space, name, bucket, updated, content_type, labels) WHERE space IS NOT NULL;
CREATE TABLE reports (name TEXT, part INTEGER, data BLOB NOT NULL, PRIMARY KEY (name, part));
""",
)


def migrate(connection: sqlite3.Connection) -> None:
    """Make or migrate the tables, if that is needed.

    Raises:
        StorageError: a newer version of this software made the file.
    """
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have done it while this one waited.
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise StorageError(
                f"The index's file was made by a newer version of this software (schema {version}, here "
                f"{len(MIGRATIONS)}): use that version."
            )
        for migration in MIGRATIONS[version:]:
            # Not `executescript`, which would end the transaction.
            for statement in migration.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    with closing(connection.execute("PRAGMA user_version")) as rows:
        return int(rows.fetchone()[0])
