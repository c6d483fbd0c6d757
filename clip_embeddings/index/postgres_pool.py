"""Connections to one PostgreSQL database: a pool for each process, made at first use, and retried calls."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import UndefinedTable
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from clip_embeddings.index.postgres_errors import is_transient, translate
from clip_embeddings.index.postgres_rows import configure
from clip_embeddings.index.postgres_services import connection_parameters
from clip_embeddings.logs import logger
from clip_embeddings.postgres_url import PostgresUrl
from clip_embeddings.storage.types import REQUEST_TIMEOUT, RETRY_TIMEOUT, StorageError, TransientError

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

# Seconds for which a connection may be unused, or used at all, before the pool replaces it: serverless
# databases stop when nobody is connected, and poolers close old connections.
MAX_IDLE, MAX_LIFETIME = 120.0, 1800.0

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
CONNECTION_OPTIONS: Mapping[str, Any] = {
    "connect_timeout": int(REQUEST_TIMEOUT),
    # A server that vanished without a word is noticed within half a minute. Seconds, then milliseconds.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",
    "application_name": "clip-embeddings",
    # A pooler gives each transaction another connection, which knows no statement that was prepared before.
    "prepare_threshold": None,
}


class PostgresPool:
    """Runs functions with a connection, in one transaction each. Threads share a pool; processes do not.

    A connection does not survive a fork, so the first call in a process makes its own pool.

    Args:
        prepare: called with a connection of its own before a process's first call, and again after tables
            have vanished.
        isolation_level: of every transaction. The statements of an index need no stricter one, whatever the
            server's default is.
    """

    def __init__(
        self,
        url: PostgresUrl,
        prepare: Callable[[Connection], None],
        isolation_level: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> None:
        self._url = url
        self._prepare = prepare
        self._isolation_level = isolation_level
        # How often the tables were found to be gone.
        self.replacements = 0
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Connection] | None = None
        self._password: str | None = None
        _pools.add(self)

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, whose changes are committed.

        It is called again after a conflict or a lost connection. So it must be idempotent: a commit may have
        succeeded although its connection was lost.

        Raises:
            TransientError: conflicts or a lack of connections lasted for RETRY_TIMEOUT.
            StorageError: the database refuses.
        """
        deadline = time.monotonic() + RETRY_TIMEOUT
        missing_before = False
        while True:
            pool = None
            try:
                pool = self._open(deadline)
                with pool.connection(max(0.1, deadline - time.monotonic())) as connection:
                    return work(connection)
            except PoolTimeout:
                raise self._unavailable() from None
            except PoolClosed:
                # Another thread found the tables gone, and closed it.
                if time.monotonic() > deadline:
                    raise TransientError("The index was closed.") from None
            except UndefinedTable as error:
                if missing_before or pool is None:
                    raise self._translate(error) from error
                missing_before = True
                self._prepare_again(pool)
            except psycopg.Error as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise self._translate(error) from error
                time.sleep(random.uniform(0.005, 0.1))

    def close(self) -> None:
        """Close the connections. The next call makes new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def forget(self) -> None:
        """Leave the connections to the parent of this process. Call in a child, after a fork."""
        # Kept, because closing them would end the parent's sessions.
        _inherited.append(self._pool)
        self._lock, self._pool = threading.Lock(), None

    def _open(self, deadline: float) -> ConnectionPool[Connection]:
        pool = self._pool
        if pool is not None:
            return pool
        if not self._lock.acquire(timeout=max(0.1, deadline - time.monotonic())):
            raise TransientError("PostgreSQL does not answer; try again later.")
        try:
            if self._pool is None:
                parameters = self._parameters()
                # A connection of its own, because the pool tries for long, and does not say what is wrong.
                with psycopg.connect(**parameters) as connection:
                    connection.isolation_level = IsolationLevel.READ_COMMITTED
                    configure(connection)
                    self._prepare(connection)
                self._pool = ConnectionPool(
                    kwargs=parameters,
                    configure=self._configure,
                    min_size=1,
                    max_size=self._url.connections,
                    max_idle=MAX_IDLE,
                    max_lifetime=MAX_LIFETIME,
                    # Then it waits for the next call, so that a server that is back is used at once.
                    reconnect_timeout=5.0,
                    name="index",
                    open=True,
                )
            return self._pool
        finally:
            self._lock.release()

    def _configure(self, connection: Connection) -> None:
        configure(connection)
        connection.isolation_level = self._isolation_level

    def _prepare_again(self, pool: ConnectionPool[Connection]) -> None:
        """Have the tables made again after a call with `pool` missed one, unless that has happened since."""
        with self._lock:
            if self._pool is not pool:
                return
            self._pool = None
            self.replacements += 1
        logger.warning(
            "The tables of the index %s are gone: new ones are made. Run `python -m functions.backfill`.",
            self._url.table,
        )
        pool.close()

    def _parameters(self) -> dict[str, Any]:
        parameters = {**CONNECTION_OPTIONS, **connection_parameters(self._url)}
        self._password = parameters.get("password") or os.environ.get("PGPASSWORD")
        return parameters

    def _unavailable(self) -> StorageError:
        """Why the pool has no connection, found out with one more."""
        try:
            psycopg.connect(**self._parameters()).close()
        except psycopg.Error as error:
            return self._translate(error)
        return TransientError("Every connection to the index is in use; try again later.")

    def _translate(self, error: psycopg.Error) -> StorageError:
        return translate(error, self._url, self._password)


_pools: weakref.WeakSet[PostgresPool] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_after_fork)
