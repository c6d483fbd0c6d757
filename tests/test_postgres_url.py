"""URLs of an index in PostgreSQL."""

from __future__ import annotations

import pytest

from clip_embeddings.config import load_settings
from clip_embeddings.errors import ConfigError
from clip_embeddings.index.postgres_services import connection_parameters
from clip_embeddings.postgres_url import is_on_this_machine, mask_password, parse_postgres_url

PARSED = {
    "postgresql://u@h/d?table=t": {"user": "u", "host": "h", "dbname": "d"},
    "postgresql://u:p@h:6543/d?table=t": {"user": "u", "host": "h", "port": "6543", "dbname": "d"},
    "postgresql://[::1]:1/d?table=t": {"host": "::1", "port": "1", "dbname": "d"},
    "postgresql://a:1,b:2/d?table=t": {"host": "a,b", "port": "1,2", "dbname": "d"},
    "postgresql://%2Fvar%2Frun/d%20e?table=t": {"host": "/var/run", "dbname": "d e"},
    "postgresql://u@/d?host=/cloudsql/p:r:i&table=t": {"user": "u", "host": "/cloudsql/p:r:i", "dbname": "d"},
    "postgresql:///?service=s&table=t": {"service": "s"},
    "postgresql://h/d?table=t&sslmode=verify-full&sslrootcert=/a+b": {
        "host": "h",
        "dbname": "d",
        "sslmode": "verify-full",
        "sslrootcert": "/a+b",
    },
}


@pytest.mark.parametrize("url", PARSED)
def test_the_parts_of_a_url(url: str) -> None:
    parsed = parse_postgres_url(url)

    assert parsed.parameters == PARSED[url]
    assert (parsed.table, parsed.vector_type, parsed.connections) == ("t", "vector", 4)
    instance = "p:r:i" if "cloudsql" in url else None
    assert parsed.cloud_sql_instance == instance


WRONG = {
    "postgresql://u:pa/ss-word@h/d?table=t": "use postgresql://",
    "postgresql://u:pa#ss-word@h/d?table=t": "use sqlite",
    "postgresql://u:ss-word@h/d?table=t&table=u": "use each parameter once",
    "postgresql://u@h/d?table=t&password=ss-word": "into PGPASSWORD",
    "postgresql://u:ss-word@h/d?table=t&options=-c": "'options' is no parameter of it",
    "postgresql://u:ss-word@h/d?table=t&vectors=bit": "vectors must be vector or halfvec",
    "postgresql://u:ss-word@h/d?table=t&connections=0": "connections must be a whole number from 1 to 64",
    "postgresql://u:ss-word@h/d?table=t&host=other": "name the host once",
    "postgresql://u:ss-word@h:port/d?table=t": "use host:port",
    "postgresql://u:ss-word@h/d%00?table=t": "may hold a NUL",
    "postgresql://u:ss-word@h/d?table=t&sslmode=prefer": "sslmode must be require, verify-ca, verify-full",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"INDEX_URL": url})

    assert WRONG[url] in str(caught.value)
    assert "ss-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("", True),
        ("/tmp", True),  # noqa: S108
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost,10.0.0.1", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
    ],
)
def test_which_hosts_are_this_machine(hosts: str, expected: bool) -> None:
    assert is_on_this_machine(hosts) == expected


def test_encryption_is_required_of_other_machines_only() -> None:
    def mode(url: str, **env: str) -> str | None:
        return connection_parameters(parse_postgres_url(url), env).get("sslmode")

    assert mode("postgresql://h/d?table=t") == "require"
    assert mode("postgresql://h/d?table=t&sslmode=verify-full") == "verify-full"
    assert mode("postgresql://h/d?table=t", PGSSLMODE="verify-ca") == "verify-ca"
    assert mode("postgresql:///d?table=t", PGHOST="h") == "require"
    assert mode("postgresql:///d?table=t") is None
    assert mode("postgresql://localhost/d?table=t&sslmode=disable") == "disable"


def test_masks() -> None:
    assert mask_password("postgresql://u:a@b/c?d@h/d?table=t") == "postgresql://u:***@h/d?table=t"
    assert mask_password("postgresql://u@h:5432/d?table=t") == "postgresql://u@h:5432/d?table=t"
    assert mask_password("postgres://u:p@h") == "postgres://u:***@h"
    assert mask_password("x?password=a&b=c") == "x?password=***&b=c"
    assert mask_password("https://a:b@c") == "https://a:b@c"
