"""The parameters of a connection: from the URL, a service file and the environment, with encryption.

A service file: https://www.postgresql.org/docs/current/libpq-pgservice.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import ConfigParser, Error
from pathlib import Path

from clip_embeddings.postgres_url import ENCRYPTED, PostgresUrl, check_encryption, is_on_this_machine
from clip_embeddings.storage.types import StorageError

SYSTEM_FILE = "pg_service.conf"


def connection_parameters(url: PostgresUrl, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What libpq is given: never less encryption than `require` for another machine.

    A password that is in no URL and no service is left to libpq, which reads PGPASSWORD and password files.

    Raises:
        StorageError: the service does not exist, or allows a connection that is not encrypted.
    """
    name = url.parameters.get("service") or env.get("PGSERVICE")
    # The URL's parameters precede those of the service, and these the environment's.
    parameters = {**(_service(name, env) if name else {}), **url.parameters}
    parameters.pop("service", None)
    if url.password is not None:
        parameters["password"] = url.password
    host = parameters.get("host") or env.get("PGHOST", "")
    if not is_on_this_machine(host):
        mode = parameters.get("sslmode") or env.get("PGSSLMODE") or ENCRYPTED[0]
        parameters["sslmode"] = mode
        try:
            check_encryption({"host": host, "sslmode": mode})
        except ValueError as error:
            raise StorageError(f"The database would be reached without encryption: {error}.") from None
    return parameters


def _service(name: str, env: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a service, from the first file that has it."""
    user_file = env.get("PGSERVICEFILE") or Path(env.get("HOME", "/"), ".pg_service.conf")
    system_file = Path(env.get("PGSYSCONFDIR") or "/etc/postgresql-common", SYSTEM_FILE)
    for path in (Path(user_file), system_file):
        parser = ConfigParser(
            delimiters=("=",),
            comment_prefixes=("#",),
            interpolation=None,
            strict=False,
            # Such a section is an ordinary one to libpq.
            default_section="",
        )
        try:
            parser.read(path, encoding="utf-8")
        except (Error, OSError, UnicodeDecodeError):
            # The message of the parser would hold a line of the file, and so perhaps a password.
            raise StorageError("A service file of PostgreSQL cannot be read.") from None
        if parser.has_section(name):
            return dict(parser.items(name))
    raise StorageError(f"There is no service {name!r} in a service file of PostgreSQL.")
