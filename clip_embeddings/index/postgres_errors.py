"""PostgreSQL's errors as those of `storage.types`: which pass by themselves, and what to run."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from clip_embeddings.postgres_url import PostgresUrl
from clip_embeddings.storage.types import StorageError, TransientError

# Classes of SQLSTATE, and states, that pass by themselves: connections, conflicts between transactions,
# limits of resources, an operator's interventions, a server that has become a standby.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
TRANSIENT_CLASSES = ("08", "40", "53", "57")
TRANSIENT_STATES = ("25006", "55P03")

# Parts of libpq's and the server's messages for a connection that is refused for good: these errors carry no
# SQLSTATE. In another language they are taken for transient.
REFUSED = re.compile(
    "authentication failed|no password supplied|does not exist|no pg_hba.conf entry|does not support SSL"
    "|SSL connection (is )?required|certificate|definition of service|permission denied for database"
    "|not permitted to log in"
)


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) and not REFUSED.search(str(error))
    return error.sqlstate.startswith(TRANSIENT_CLASSES) or error.sqlstate in TRANSIENT_STATES


def translate(error: psycopg.Error, url: PostgresUrl, password: str | None) -> StorageError:
    """The StorageError that says what happened, and what to run if a right or the extension is missing."""
    # One line: the server's hints and the statement are left out.
    message = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if password:
        message = message.replace(password, "***")
    if is_transient(error):
        return TransientError(f"PostgreSQL cannot be used now: {message}.")
    return StorageError(_advice(error, url) or f"PostgreSQL refused: {message}.")


def _advice(error: psycopg.Error, url: PostgresUrl) -> str | None:
    """What to run, as one sentence."""
    message = str(error)
    role = url.parameters.get("user", "ROLE")
    database = url.parameters.get("dbname", "DATABASE")
    tables = ", ".join(table_names(url.table))
    if isinstance(error, errors.UndefinedFile) or "is not available" in message:
        return (
            "The PostgreSQL server has no pgvector: install the extension there (the hosted ones have it), "
            f"then run CREATE EXTENSION vector; in the database {database}."
        )
    if not isinstance(error, errors.InsufficientPrivilege):
        return None
    if "extension" in message:
        return f"A role that may create extensions must run CREATE EXTENSION vector; in {database}."
    if "for schema" in message:
        return f"The role may not create tables: run GRANT USAGE, CREATE ON SCHEMA public TO {role};"
    if "must be owner" in message:
        return (
            f"The role may not index a new space or migrate the tables: run ALTER TABLE {url.table} OWNER TO "
            f"{role};"
        )
    return f"The role may not use the index: run GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role};"


def table_names(table: str) -> tuple[str, str, str, str]:
    """The tables of an index: of its entries, of its spaces, of the version of its schema, of its reports."""
    return table, f"{table}_spaces", f"{table}_schema", f"{table}_reports"
