"""URLs of an index in PostgreSQL: what they may hold, and how they are shown without their password.

    postgresql://user@host:port/database?table=photos&sslmode=verify-full
    postgresql://user@/database?host=/cloudsql/project:region:instance&table=photos
    postgresql:///?service=name&table=photos

They are those of libpq with the parameters OWN_PARAMETERS added and most others left out:
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote

SCHEME = "postgresql"
TABLE = r"[a-z_][a-z0-9_]{0,40}"
# Connections that a process keeps at most, unless the URL says otherwise, and the most that it may say.
DEFAULT_CONNECTIONS, MAX_CONNECTIONS = 4, 64

# What the index in pgvector's graph is built from: vectors of 32 bits per number, or of 16.
VECTOR_TYPES = ("vector", "halfvec")
OWN_PARAMETERS = ("table", "vectors", "connections")
LIBPQ_PARAMETERS = (
    *("host", "port", "service", "sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding"),
    *("target_session_attrs", "application_name"),
)
# Values of sslmode with which no connection goes unencrypted.
# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
ENCRYPTED = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class PostgresUrl:
    """A parsed URL."""

    table: str
    # One of VECTOR_TYPES.
    vector_type: str
    # Connections that a process keeps at most.
    connections: int
    # Parameters of libpq, without the password.
    parameters: Mapping[str, str]
    # None: from PGPASSWORD, a service file or a password file.
    password: str | None = field(default=None, repr=False)

    @property
    def cloud_sql_instance(self) -> str | None:
        """`project:region:instance`, if the host is the folder of a Cloud SQL socket."""
        host = self.parameters.get("host", "")
        return host.removeprefix("/cloudsql/") if host.startswith("/cloudsql/") else None


def parse_postgres_url(url: str) -> PostgresUrl:
    """Parse a `postgresql://` URL. Raises ValueError, whose message holds no part of the password."""
    match = re.fullmatch(
        r"postgresql://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
        r"(?P<hosts>[^@/?#]*)(?:/(?P<database>[^/?#]*))?(?:\?(?P<query>[^#]*))?",
        url,
    )
    if match is None:
        raise ValueError(
            "use postgresql://user@host/database?table=name, with %-escapes for any of :/?#[]@% in its parts"
        )
    # libpq takes a plus sign for itself, and not for a blank as in forms.
    pairs = [pair.partition("=")[::2] for pair in (match["query"] or "").split("&") if pair]
    given = {name: unquote(value) for name, value in pairs}
    if len(given) < len(pairs):
        raise ValueError("use each parameter once")
    if "password" in given:
        raise ValueError("put the password in front of the host, or better into PGPASSWORD")
    if unknown := [name for name in given if name not in (*OWN_PARAMETERS, *LIBPQ_PARAMETERS)]:
        names = ", ".join((*OWN_PARAMETERS, *LIBPQ_PARAMETERS))
        raise ValueError(f"{unknown[0][:40]!r} is no parameter of it; there are {names}")
    table, vector_type, connections = _own_values(given)
    parameters = {name: value for name, value in given.items() if name in LIBPQ_PARAMETERS}
    if match["user"]:
        parameters["user"] = unquote(match["user"])
    if match["database"]:
        parameters["dbname"] = unquote(match["database"])
    if match["hosts"]:
        if "host" in parameters:
            raise ValueError("name the host once, in front of the database or as the parameter host")
        parameters |= _hosts(match["hosts"])
    if any("\0" in value for value in parameters.values()):
        raise ValueError("no part of it may hold a NUL")
    check_encryption(parameters)
    return PostgresUrl(
        table=table,
        vector_type=vector_type,
        connections=connections,
        parameters=parameters,
        password=unquote(match["password"]) if match["password"] else None,
    )


def check_encryption(parameters: Mapping[str, str]) -> None:
    """Raises ValueError if a connection to another machine could go unencrypted because of `sslmode`."""
    host, mode = parameters.get("host"), parameters.get("sslmode")
    if host and mode and mode not in ENCRYPTED and not is_on_this_machine(host):
        raise ValueError(f"sslmode must be {', '.join(ENCRYPTED)} for a host that is not this machine")


def is_on_this_machine(hosts: str) -> bool:
    """Whether every host of a list, as libpq takes it, is a Unix socket's folder or a loopback address."""
    return all(map(_is_on_this_machine, hosts.split(",")))


def mask_password(text: str) -> str:
    """`text` with *** in place of the password of any URL or `password=` in it, even of a malformed one."""
    # Up to the last @, because a password that is not escaped may hold any character.
    text = re.sub(r"((?:postgres\w*):/*[^:@]*):.*@", r"\1:***@", text, flags=re.IGNORECASE | re.DOTALL)
    return re.sub(r"(password=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def _own_values(given: Mapping[str, str]) -> tuple[str, str, int]:
    table = given.get("table", "")
    if not re.fullmatch(TABLE, table):
        raise ValueError(f"use a table's name that matches {TABLE}, as in ?table=photos")
    vector_type = given.get("vectors", VECTOR_TYPES[0])
    if vector_type not in VECTOR_TYPES:
        raise ValueError(f"vectors must be {' or '.join(VECTOR_TYPES)}")
    connections = given.get("connections", str(DEFAULT_CONNECTIONS))
    if not re.fullmatch(r"[0-9]{1,3}", connections) or not 1 <= int(connections) <= MAX_CONNECTIONS:
        raise ValueError(f"connections must be a whole number from 1 to {MAX_CONNECTIONS}")
    return table, vector_type, int(connections)


def _hosts(text: str) -> dict[str, str]:
    """The parameters host and port of a list of `host:port` between commas; ports may be missing."""
    hosts, ports = [], []
    for part in text.split(","):
        match = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?", part)
        if match is None:
            raise ValueError("use host:port, with [ ] around an IPv6 address")
        hosts.append(unquote(match["host"].strip("[]")))
        ports.append(match["port"] or "")
    values = {"host": ",".join(hosts), "port": ",".join(ports)}
    return {name: value for name, value in values.items() if value.strip(",")}


def _is_on_this_machine(host: str) -> bool:
    # An empty host is a Unix socket in libpq's default folder.
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
