"""An index in one SQLite file: vectors as BLOBs, scored as one matrix per space that every process keeps."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.matrix import Matrix
from clip_embeddings.index.types import (
    Entry,
    Hit,
    check_dimensions,
    check_generation,
    checked,
    is_text,
    normalize,
    prefix_end,
)
from clip_embeddings.storage.types import StorageError, TransientError

T = TypeVar("T")

# Seconds to wait for other writers, all together.
PATIENCE = 60.0

# Rows of one answer where a whole bucket is listed: no reader stands in the way of a checkpoint for long.
PAGE = 1000

# Where a query wants few of all names, it first looks at this many times as many entries as it is to find.
AHEAD = 10

# `version` grows with every change of a row, so a matrix asks for what is newer than itself. A tombstone is a
# row without vector. A swept one leaves no trace but `swept`: who has not seen that version starts anew.
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

FIELDS = "bucket, name, generation, content_type, size, updated, space, fingerprint, metadata"

UPSERT = f"""
INSERT INTO entries ({FIELDS}, vector, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, version = excluded.version, expires = NULL,
    space = excluded.space, fingerprint = excluded.fingerprint, content_type = excluded.content_type,
    size = excluded.size, updated = excluded.updated, metadata = excluded.metadata, vector = excluded.vector
WHERE generation < excluded.generation
    OR generation = excluded.generation AND expires IS NULL
    OR expires <= ?
"""

DELETE = """
INSERT INTO entries (bucket, name, generation, version, expires) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (bucket, name) DO UPDATE SET
    generation = excluded.generation, version = excluded.version, expires = excluded.expires,
    space = NULL, fingerprint = NULL, content_type = NULL,
    size = NULL, updated = NULL, metadata = NULL, vector = NULL
WHERE generation <= ? OR expires <= ?
"""


class SqliteIndex:
    """The index in the file `path`, made at first use. See Index."""

    def __init__(self, path: Path, tombstone_ttl: float = IndexSettings.tombstone_ttl) -> None:
        self._path = path
        self._tombstone_ttl = tombstone_ttl
        self._connections = _Connections(path)
        # Guards the matrices, and so makes a matrix and what a query reads of the file the same moment.
        self._lock = threading.Lock()
        self._matrices: dict[str, Matrix] = {}

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        rows = [checked(entry) for entry in entries]

        def write(file: sqlite3.Connection) -> list[bool]:
            now, version = time.time(), _next_version(file)
            for entry in rows:
                _claim_dimensions(file, entry)
            return [file.execute(UPSERT, (*_row(entry), version, now)).rowcount > 0 for entry in rows]

        return self._transaction(write, writes=True) if rows else []

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        check_generation(generation)
        if not is_text(bucket, name):
            return True

        def write(file: sqlite3.Connection) -> bool:
            now, version = time.time(), _next_version(file)
            _sweep(file, now)
            tombstone = (bucket, name, 0 if forget else generation, version, now + self._tombstone_ttl)
            return file.execute(DELETE, (*tombstone, generation, now)).rowcount > 0

        return self._transaction(write, writes=True)

    def query(
        self,
        vector: np.ndarray,
        space: str,
        k: int,
        *,
        bucket: str | None = None,
        prefix: str = "",
        min_score: float | None = None,
    ) -> list[Hit]:
        wanted = normalize(vector)
        if not is_text(space, bucket or "", prefix):
            return []

        def read(file: sqlite3.Connection) -> list[Hit]:
            dimensions = _dimensions(file, space)
            if dimensions is None:
                return []
            check_dimensions(space, dimensions, len(wanted))
            matrix = self._matrices.setdefault(space, Matrix(dimensions))
            _refresh(matrix, file, space)
            scores = matrix.scores(wanted)
            if bucket is None and not prefix:
                return [_hit(file, *best) for best in matrix.best(scores, k, min_score)]
            # Most often enough of the best are the right ones; only else is it worth while to list these.
            ahead = matrix.best(scores, AHEAD * k, min_score)
            hits = (_hit(file, *best) for best in ahead)
            found = list(islice((hit for hit in hits if _is_in(hit.entry, bucket, prefix)), k))
            if len(found) == k or len(ahead) < AHEAD * k:
                return found
            among = _among(file, space, bucket, prefix)
            return [_hit(file, *best) for best in matrix.best(scores, k, min_score, among)]

        return self._transaction(read, guarded=True)

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        select = f"SELECT {FIELDS}, vector FROM entries WHERE bucket = ? AND name = ? AND expires IS NULL"
        row = self._transaction(lambda file: file.execute(select, (bucket, name)).fetchone())
        return _entry(*row) if row else None

    def generations(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        if not is_text(bucket, prefix):
            return
        start, more = prefix, ">="
        while True:
            condition, values = _range(bucket, start, more, prefix_end(prefix))
            select = (
                f"SELECT name, generation, fingerprint FROM entries WHERE {condition} AND expires IS NULL"
                f" ORDER BY name LIMIT {PAGE}"
            )
            rows = self._transaction(lambda file: file.execute(select, values).fetchall())  # noqa: B023
            yield from rows
            if len(rows) < PAGE:
                return
            start, more = rows[-1][0], ">"

    def count(self, space: str | None = None) -> int:
        condition, values = ("expires IS NULL", ()) if space is None else ("space = ?", (space,))
        if space is not None and not is_text(space):
            return 0
        select = f"SELECT count(*) FROM entries WHERE {condition}"
        return int(self._transaction(lambda file: file.execute(select, values).fetchone())[0])

    def close(self) -> None:
        """Close the file and forget the matrices; the next call opens it again."""
        self._connections.close()
        with self._lock:
            self._matrices.clear()

    def _transaction(
        self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False, guarded: bool = False
    ) -> T:
        """What `work` returns, all of whose reads see one moment. It is run again where the file was busy."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with self._connections.use() as file:
                    if not guarded:
                        return _run(file, work, writes)
                    with self._lock:
                        return _run(file, work, writes)
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise _translate(error) from error
                if time.monotonic() > end:
                    raise TransientError("The index is busy; try again later.") from error
                time.sleep(random.uniform(0.001, 0.05))
            except sqlite3.Error as error:
                raise _translate(error) from error


def _run(file: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
    # A transaction that begins with a read and then writes can fail at once, however long it would wait.
    file.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        result = work(file)
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise
    return result


def _next_version(file: sqlite3.Connection) -> int:
    return int(file.execute("UPDATE state SET version = version + 1 RETURNING version").fetchall()[0][0])


def _dimensions(file: sqlite3.Connection, space: str) -> int | None:
    row = file.execute("SELECT dimensions FROM spaces WHERE space = ?", (space,)).fetchone()
    return int(row[0]) if row else None


def _claim_dimensions(file: sqlite3.Connection, entry: Entry) -> None:
    given = len(entry.vector)
    file.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?)", (entry.space, given))
    check_dimensions(entry.space, _dimensions(file, entry.space) or given, given)


def _sweep(file: sqlite3.Connection, now: float) -> None:
    (swept,) = file.execute("SELECT max(version) FROM entries WHERE expires <= ?", (now,)).fetchone()
    if swept is not None:
        file.execute("DELETE FROM entries WHERE expires <= ?", (now,))
        file.execute("UPDATE state SET swept = max(swept, ?)", (swept,))


def _refresh(matrix: Matrix, file: sqlite3.Connection, space: str) -> None:
    """Take in what was written since the matrix was made, or all of it."""
    version, swept = file.execute("SELECT version, swept FROM state").fetchone()
    if matrix.version < swept or not matrix.version:
        matrix.clear()
    if matrix.version == version:
        return
    if matrix.version:
        gone = file.execute(
            "SELECT id FROM entries WHERE version > ? AND space IS NOT ?", (matrix.version, space)
        )
        matrix.remove(id_ for (id_,) in gone)
    else:
        (count,) = file.execute("SELECT count(*) FROM entries WHERE space = ?", (space,)).fetchone()
        matrix.reserve(count)
    rows = file.execute(
        "SELECT id, vector FROM entries WHERE space = ? AND version > ? ORDER BY version, id",
        (space, matrix.version),
    )
    while page := rows.fetchmany(PAGE):
        matrix.put([id_ for id_, _ in page], b"".join(vector for _, vector in page))
    matrix.version = version


def _among(file: sqlite3.Connection, space: str, bucket: str | None, prefix: str) -> list[int]:
    condition, values = _range(bucket, prefix, ">=", prefix_end(prefix))
    select = f"SELECT id FROM entries INDEXED BY by_name WHERE space = ? AND {condition}"
    return [id_ for (id_,) in file.execute(select, (space, *values))]


def _is_in(entry: Entry, bucket: str | None, prefix: str) -> bool:
    return entry.name.startswith(prefix) and bucket in (None, entry.bucket)


def _hit(file: sqlite3.Connection, id_: int, score: float) -> Hit:
    row = file.execute(f"SELECT {FIELDS}, x'' FROM entries WHERE id = ?", (id_,)).fetchone()
    return Hit(_entry(*row), score)


def _range(bucket: str | None, start: str, more: str, end: str | None) -> tuple[str, tuple[str, ...]]:
    """A condition on names from `start` to before `end`, and its values."""
    parts, values = [f"name {more} ?"], [start]
    if bucket is not None:
        parts, values = ["bucket = ?", *parts], [bucket, *values]
    if end is not None:
        parts, values = [*parts, "name < ?"], [*values, end]
    return " AND ".join(parts), tuple(values)


def _row(entry: Entry) -> tuple[object, ...]:
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


def _entry(
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


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _translate(error: sqlite3.Error) -> StorageError:
    # SQLite's own words name neither the file nor what is in it.
    return StorageError(f"The index cannot be used: {error}.")


class _Connections:
    """Connections to one file, one for each thread that uses it at a time.

    SQLite's locks do not survive a fork: a child that goes on with a connection damages the file. So a fork
    waits until none is in use, and closes them all. See section 2.6 of https://www.sqlite.org/howtocorrupt.html
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._idle: list[sqlite3.Connection] = []
        self._busy = 0
        self._forking = False
        _all.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        with self._changed:
            # Else busy threads would relieve each other, and a fork would wait for ever.
            self._changed.wait_for(lambda: not self._forking)
            file = self._idle.pop() if self._idle else None
            self._busy += 1
        try:
            file = file or _connect(self._path)
            yield file
        finally:
            with self._changed:
                self._busy -= 1
                if file is not None:
                    self._idle.append(file)
                self._changed.notify_all()

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        with self._changed:
            self._close_idle()

    def park(self) -> None:
        """Close every connection, and let nobody open one until `resume`."""
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._busy)
        self._close_idle()

    def resume(self) -> None:
        """Undo `park`, in the same process or in its child."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        self._close_idle()


_all: weakref.WeakSet[_Connections] = weakref.WeakSet()
_parked: list[_Connections] = []
_one_fork = threading.Lock()


def _before_fork() -> None:
    _one_fork.acquire()
    for connections in list(_all):
        connections.park()
        _parked.append(connections)


def _after_fork() -> None:
    while _parked:
        _parked.pop().resume()
    _one_fork.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Whoever else has an account here has no business in it.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder of the index cannot be made: {error.strerror}.") from None
    file = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        # Vectors of 2 KiB fill larger pages better. Only a new file takes it.
        file.execute("PRAGMA page_size = 16384")
        with closing(file.execute("PRAGMA journal_mode = WAL")) as mode:
            mode.fetchall()
        # What an event's sender was told is done outlives a power cut.
        file.execute("PRAGMA synchronous = FULL")
        if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
            file.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    except BaseException:
        file.close()
        raise
    return file
