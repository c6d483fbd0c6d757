"""Opens a SQLite file: makes it if it is missing, and notices if it is removed or replaced meanwhile."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from clip_embeddings.index.sqlite_schema import migrate
from clip_embeddings.storage.types import StorageError

# What a file is, whatever its name: its device and its inode.
FileId = tuple[int, int]
# No file has these.
MISSING: FileId = (0, 0)
# The files that SQLite keeps beside a database: https://www.sqlite.org/wal.html
SIDE_FILES = ("-wal", "-shm")


class ReplacedError(Exception):
    """The file was removed or replaced while it was opened: try again."""


def connect(path: Path, timeout: float) -> tuple[sqlite3.Connection, FileId]:
    """A connection to the database `path`, made if it is missing, and which file that is.

    Args:
        timeout: seconds for which a statement waits for other writers.

    Raises:
        ReplacedError: the file was removed or replaced meanwhile.
        StorageError: its folder cannot be made.
    """
    try:
        # Only the owner can read the folder.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder of the index cannot be made: {error.strerror}.") from None
    file_id = file_id_of(path)
    if file_id == MISSING:
        with _locked(path.parent):
            if file_id_of(path) == MISSING:
                # Left of a database that was removed. Whoever still has that one open shares memory with
                # these files, which must not become those of the new one.
                for suffix in SIDE_FILES:
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
                return _open(path, "rwc", timeout), file_id_of(path)
        raise ReplacedError
    try:
        connection = _open(path, "rw", timeout)
    except sqlite3.OperationalError:
        if file_id_of(path) == MISSING:
            raise ReplacedError from None
        raise
    if file_id_of(path) != file_id:
        connection.close()
        raise ReplacedError
    return connection, file_id


def _open(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection, in the URI's mode: https://www.sqlite.org/uri.html"""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # Vectors of 2 KiB fill larger pages better. This takes effect only in a new file.
        connection.execute("PRAGMA page_size = 16384")
        with closing(connection.execute("PRAGMA journal_mode = WAL")) as mode_row:
            mode_row.fetchall()
        # An event is acknowledged once its change is committed, so a commit must survive a power failure.
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, over all threads and processes that make an index in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def file_id_of(path: str | Path) -> FileId:
    """MISSING if the file cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return MISSING
    return status.st_dev, status.st_ino
