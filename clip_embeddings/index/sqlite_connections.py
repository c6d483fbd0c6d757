"""Connections to one SQLite file: shared by threads, safe across forks, with retried transactions."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from clip_embeddings.index.sqlite_file import MISSING, SIDE_FILES, FileId, ReplacedError, connect, file_id_of
from clip_embeddings.logs import logger
from clip_embeddings.storage.types import StorageError, TransientError

T = TypeVar("T")

# Seconds to wait for other writers, in total.
BUSY_TIMEOUT = 60.0

# Primary result codes of a file that is no database, or not a whole one: https://www.sqlite.org/rescode.html
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class ConnectionPool:
    """Connections to the file `path`, each used by one thread at a time. The first one makes the file.

    SQLite's locks do not survive a fork: a child that uses an inherited connection damages the file. So a
    fork waits until no connection is in use, and closes them all. See section 2.6 of
    https://www.sqlite.org/howtocorrupt.html

    A file that is removed or replaced stays the file of the connections that are open, for ever. So each use
    looks at the inode, which takes a microsecond, and opens the file that has the name now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        # How often the file was found to be removed or replaced. Stays the same while a connection is in use.
        self.replacements = 0
        # The database that the connections have open, and the files beside it; empty before the first.
        self._opened: dict[str, FileId] = {}
        self._changed = threading.Condition()
        self._idle: list[sqlite3.Connection] = []
        self._in_use = 0
        self._forking = False

    def run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """The result of `work`, called in one transaction, and called again while the file is busy.

        Args:
            writes: whether `work` writes. All its reads see one state of the file in either case.

        Raises:
            TransientError: other writers kept the file busy for BUSY_TIMEOUT.
            StorageError: the file cannot be used.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                with self._connection() as connection:
                    return _run_once(connection, work, writes)
            except ReplacedError:
                continue
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise self._translate(error) from error
                if time.monotonic() > deadline:
                    raise TransientError("The index is busy; try again later.") from error
                time.sleep(random.uniform(0.001, 0.05))
            except sqlite3.Error as error:
                raise self._translate(error) from error

    def check(self) -> int:
        """How often the file was found to be removed or replaced, a look at it now included."""
        with self._changed:
            self._reopen_if_replaced()
            return self.replacements

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def suspend(self) -> None:
        """Close every connection, and have threads that need one wait for `resume`."""
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._in_use)
        self.close_idle()

    def resume(self) -> None:
        """Undo `suspend`, in the same process or in its child."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._changed:
            # Without this wait, busy threads could take turns, and a fork would wait forever.
            self._changed.wait_for(lambda: not self._forking)
            self._reopen_if_replaced()
            connection = self._idle.pop() if self._idle else None
            self._in_use += 1
        try:
            if connection is None:
                connection = self._new()
            yield connection
        finally:
            with self._changed:
                self._in_use -= 1
                if connection is not None:
                    self._idle.append(connection)
                self._changed.notify_all()

    def _new(self) -> sqlite3.Connection:
        """A new connection, to the file that the others have open. Raises ReplacedError if it is gone."""
        connection, file_id = connect(self._path, BUSY_TIMEOUT)
        with self._changed:
            if file_id == self._opened.get("", file_id):
                self._opened = {**self._files(), "": file_id}
                return connection
        connection.close()
        raise ReplacedError

    def _reopen_if_replaced(self) -> None:
        """Close every connection if the file has been removed or replaced. The caller holds the condition."""
        opened, current, before = self._opened, file_id_of(self._name), self.replacements
        if not opened or current == opened[""] != MISSING:
            return
        # Connections to two databases of one name would share the files beside them.
        self._changed.wait_for(lambda: not self._in_use)
        if self.replacements != before:
            return
        for suffix, file_id in self._files().items():
            # What is left of the old database would be taken for changes of the new one.
            if suffix and file_id == opened[suffix] != MISSING:
                with suppress(OSError):
                    os.unlink(f"{self._name}{suffix}")
        # SQLite notices that the file has moved, and leaves the files of that name alone.
        self.close_idle()
        self._opened = {}
        self.replacements += 1
        if current == MISSING:
            logger.warning(
                "The index's file %s was removed: a new one is begun. The local server fills it; elsewhere "
                "run `python -m functions.backfill`.",
                self._path,
            )
        else:
            logger.warning("The index's file %s was replaced: it is opened again.", self._path)

    def _files(self) -> dict[str, FileId]:
        """The database and the files beside it, by what their names end with."""
        return {suffix: file_id_of(f"{self._name}{suffix}") for suffix in ("", *SIDE_FILES)}

    def _translate(self, error: sqlite3.Error) -> StorageError:
        # Python's own errors have no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            return StorageError(
                f"The index's file {self._path} is damaged ({error}): delete it, and the files of the same "
                "name that end with -wal and -shm. The local server then makes it again; elsewhere run "
                "`python -m functions.backfill`."
            )
        # SQLite's messages name neither the file nor its contents.
        return StorageError(f"The index cannot be used: {error}.")

    def __del__(self) -> None:
        self.close_idle()


# By path. One for each file, because SQLite's locks do not keep connections of one process apart, so only a
# pool that knows them all can close them before a file of the same name is opened.
_pools: weakref.WeakValueDictionary[Path, ConnectionPool] = weakref.WeakValueDictionary()
_pools_lock = threading.Lock()
_suspended: list[ConnectionPool] = []
_fork_lock = threading.Lock()


def connection_pool(path: Path) -> ConnectionPool:
    """The connections of this process to the file `path`."""
    path = path.absolute()
    with _pools_lock:
        pool = _pools.get(path)
        if pool is None:
            pool = _pools[path] = ConnectionPool(path)
        return pool


def _before_fork() -> None:
    _fork_lock.acquire()
    _pools_lock.acquire()
    for pool in list(_pools.values()):
        pool.suspend()
        _suspended.append(pool)


def _after_fork() -> None:
    while _suspended:
        _suspended.pop().resume()
    _pools_lock.release()
    _fork_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _run_once(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
    # A transaction that begins with a read and then writes may fail at once, whatever its timeout:
    # https://www.sqlite.org/lang_transaction.html
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
