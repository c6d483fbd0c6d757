"""PostgreSQL: isolation levels, lost connections, rights, versions of the schema, graphs and filters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg import IsolationLevel, sql

from clip_embeddings.index import postgres as postgres_module
from clip_embeddings.index import postgres_sample, postgres_schema, postgres_search
from clip_embeddings.index.postgres import PostgresIndex
from clip_embeddings.index.types import Filter, LabelChange
from clip_embeddings.postgres_url import parse_postgres_url
from clip_embeddings.storage.types import StorageError, TransientError
from tests.support import postgres_server
from tests.support.entries import DIMENSIONS, UPDATED, direction, entry
from tests.support.histories import History, check_history, histories
from tests.support.index_process import row_name
from tests.support.indexes import close_index, opened_index
from tests.support.postgres_server import PostgresServer
from tests.support.serving import ROOT, free_port, refusal, serving
from tests.support.threads import run_threads


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """The URL of an index that does not exist yet."""
    return postgres.index_url(table=f"t{uuid.uuid4().hex}")


@pytest.fixture
def index(url: str) -> Iterator[PostgresIndex]:
    index = PostgresIndex(parse_postgres_url(url))
    yield index
    close_index(index)


def run(postgres: PostgresServer, url: str, statement: str) -> list[tuple[object, ...]]:
    """Run a statement, with the name of the URL's table for {table}."""
    return postgres.run(statement.format(table=parse_postgres_url(url).table))


def index_definitions(postgres: PostgresServer, url: str) -> list[str]:
    """The statements that made the database's own indexes of the URL's table, in the order of their names."""
    select = "SELECT indexdef FROM pg_indexes WHERE tablename = '{table}' ORDER BY indexname"
    return [str(row[0]) for row in run(postgres, url, select)]


def names(index: PostgresIndex, prefix: str = "") -> list[str]:
    return [name for name, *_ in index.generations("photos", prefix)]


def query_names(index: PostgresIndex, k: int = 1000, **filters: Any) -> list[str]:
    return [hit.entry.name for hit in index.query(direction("q"), "s", k, Filter(**filters)).hits]


LEVELS = list(IsolationLevel)


@pytest.mark.parametrize("level", LEVELS, ids=[level.name.lower() for level in LEVELS])
@pytest.mark.parametrize("count", [15, pytest.param(500, marks=pytest.mark.full)])
def test_no_isolation_level_loses_an_update(url: str, level: IsolationLevel, count: int) -> None:
    index = PostgresIndex(parse_postgres_url(url), isolation_level=level)

    # The machine that runs the tests may be slow.
    @settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(history=histories())
    def check(history: History) -> None:
        check_history(index, history, threads=4)

    try:
        check()
    finally:
        index.close()


def test_the_index_sets_the_level_that_it_needs(postgres: PostgresServer) -> None:
    database = postgres.new_database()
    postgres.run(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")

    with opened_index(postgres.index_url(database)) as index:
        assert isinstance(index, PostgresIndex)
        level = index._pool.run(
            lambda connection: connection.execute("SHOW transaction_isolation").fetchone()
        )

    assert level == ("read committed",)


def test_processes_that_begin_at_once_make_the_tables_once(postgres: PostgresServer) -> None:
    database = postgres.new_database()
    url = postgres.index_url(database)
    indexes = [PostgresIndex(parse_postgres_url(url)) for _ in range(8)]

    run_threads([partial(each.upsert, [entry(str(number))]) for number, each in enumerate(indexes)])

    assert indexes[0].count("s") == 8
    assert len(postgres.run("SELECT 1 FROM pg_indexes WHERE indexdef LIKE '%hnsw%'", database)) == 1
    for index in indexes:
        index.close()


def start_process(action: str, url: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.index_process", action, url, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    "rows", [pytest.param(400, id="400"), pytest.param(50_000, id="50000", marks=pytest.mark.full)]
)
def test_four_writing_processes_and_one_that_searches(url: str, index: PostgresIndex, rows: int) -> None:
    rows_of_each, dimensions = rows // 4, 512
    searcher = start_process("search", url, dimensions)
    writers = [start_process("write", url, writer, rows_of_each, dimensions) for writer in "abcd"]

    for writer in writers:
        _, error = writer.communicate(timeout=1800)
        assert (writer.returncode, error) == (0, b"")
    queries, error = searcher.communicate(timeout=60)
    assert (searcher.returncode, error) == (0, b"")
    assert int(queries) > 0

    expected = [row_name(writer, number) for writer in "abcd" for number in range(rows_of_each)]
    assert names(index) == expected
    assert index.count("s") == rows
    for name in expected[:: rows // 100]:
        found_entry = index.get("photos", name)
        assert found_entry is not None
        assert np.array_equal(found_entry.vector, direction(name, dimensions))
        assert index.query(direction(name, dimensions), "s", 1).hits[0].entry.name == name


def test_lost_connections_are_replaced(postgres: PostgresServer, url: str, index: PostgresIndex) -> None:
    index.upsert([entry("a")])
    run_threads([partial(query_names, index)] * 4)

    for number in range(3):
        sessions = "FROM pg_stat_activity WHERE application_name = 'clip-embeddings'"
        assert run(postgres, url, f"SELECT pg_terminate_backend(pid) {sessions}")
        assert query_names(index) == ["a"]
        assert index.upsert([entry("a", number + 2)]) == [True]


def test_a_server_that_is_killed_under_load_loses_nothing(tmp_path: Path) -> None:
    written: dict[str, set[str]] = {"a": set(), "b": set()}
    unavailable: list[TransientError] = []
    stopped = threading.Event()

    with postgres_server.running() as server, opened_index(server.index_url()) as index:
        index.upsert([entry("first")])

        def keep_trying(work: object) -> None:
            try:
                work()  # type: ignore[operator]
            except TransientError as error:
                unavailable.append(error)

        def write(writer: str) -> None:
            number = 0
            while not stopped.is_set():
                batch = [entry(f"{writer}/{number}/{row}") for row in range(4)]

                def write_batch(batch: list[object] = batch) -> None:  # type: ignore[assignment]
                    assert all(index.upsert(batch))  # type: ignore[arg-type]
                    written[writer].update(each.name for each in batch)  # type: ignore[attr-defined]

                keep_trying(write_batch)
                number += 1

        def search() -> None:
            while not stopped.is_set():
                keep_trying(lambda: index.query(direction("q"), "s", 3))

        def kill() -> None:
            for _ in range(3):
                time.sleep(0.4)
                server.kill()
                time.sleep(0.2)
                server.start()
            time.sleep(0.4)
            stopped.set()

        run_threads([partial(write, "a"), partial(write, "b"), search, kill])

        for writer, acknowledged in written.items():
            assert len(acknowledged) > 8
            assert acknowledged <= {name for name, *_ in index.generations("photos", f"{writer}/")}


def test_a_server_that_is_down_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_embeddings.index.postgres_pool.RETRY_TIMEOUT", 0.3)
    url = f"postgresql://someone:the-secret-word@127.0.0.1:{free_port()}/database?table=photos"

    with opened_index(url) as index, pytest.raises(TransientError, match="Connection refused") as caught:
        index.count()

    assert "the-secret-word" not in str(caught.value)


FORKING = """
import os, sys, threading
from clip_embeddings.index.factory import open_index
from tests.support.entries import direction, entry

index = open_index(sys.argv[1])
assert index._pool._pool is None
index.upsert([entry("before")])
done = threading.Event()

def busy():
    while not done.is_set():
        index.upsert([entry("parent", 2)])
        index.query(direction("q"), "s", 3)

threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for number in range(4):
    if not os.fork():
        index.upsert([entry(f"child {number}")])
        names = {hit.entry.name for hit in index.query(direction("q"), "s", 100).hits}
        sys.exit(0 if {"before", f"child {number}"} <= names else 1)
    _, status = os.wait()
    assert status == 0, status
done.set()
for thread in threads:
    thread.join()
assert index.count() == 6, index.count()
"""


def test_an_index_works_in_both_processes_after_a_fork(url: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, url]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")


def test_connections_are_bounded(postgres: PostgresServer, url: str) -> None:
    with opened_index(f"{url}&connections=2&application_name=bounded") as index:
        index.upsert([entry("a")])
        run_threads([partial(index.query, direction("q"), "s", 1)] * 12)

        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bounded'"
        ((connections,),) = run(postgres, url, count)
        assert connections in (1, 2)


def test_an_index_is_reached_by_a_unix_socket(postgres: PostgresServer) -> None:
    url = f"postgresql://postgres@/postgres?host={postgres.folder}&port={postgres.port}&table=socket"

    with opened_index(url) as index:
        assert index.upsert([entry("a")]) == [True]


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """A role without any right, and its password."""
    name, password = f"r{time.monotonic_ns()}", "a-pass:word/of?its@own"
    postgres.run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    yield name, password
    postgres.run(f"DROP OWNED BY {name}")


ESCAPED = "a-pass%3Aword%2Fof%3Fits%40own"


def test_a_password_comes_from_the_url_the_environment_or_a_service(
    postgres: PostgresServer, role: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, password = role
    database = postgres.new_database()
    postgres.run(f"ALTER DATABASE {database} OWNER TO {name}")
    postgres.run("CREATE EXTENSION vector", database)
    address = f"127.0.0.1:{postgres.port}/{database}?table=photos"
    service = ["[index]", "host=127.0.0.1", f"port={postgres.port}", f"user={name}", f"password={password}"]
    (tmp_path / "services").write_text("\n".join(["# A comment", *service, f"dbname={database}", ""]))

    with opened_index(f"postgresql://{name}:{ESCAPED}@{address}") as index:
        assert index.upsert([entry("a")]) == [True]
        assert password not in repr(vars(index)["_url"])
        assert ESCAPED not in repr(vars(index)["_url"])
    with monkeypatch.context() as patched:
        patched.setenv("PGPASSWORD", password)
        with opened_index(f"postgresql://{name}@{address}") as index:
            assert index.count() == 1
    with monkeypatch.context() as patched:
        patched.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        with opened_index("postgresql:///?service=index&table=photos") as index:
            assert index.count() == 1
        with (
            opened_index("postgresql:///?service=none&table=photos") as index,
            pytest.raises(StorageError, match="There is no service 'none' in a service file of PostgreSQL"),
        ):
            index.count()


@pytest.mark.parametrize("userinfo", ["{name}", "{name}:wrong-word"])
def test_a_wrong_password_is_not_tried_again(
    postgres: PostgresServer, role: tuple[str, str], userinfo: str
) -> None:
    url = postgres.index_url().replace("postgres@", f"{userinfo.format(name=role[0])}@")
    started = time.monotonic()

    with opened_index(url) as index, pytest.raises(StorageError, match="password") as caught:
        index.count()

    assert not isinstance(caught.value, TransientError)
    assert "wrong-word" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_other_machines_are_reached_with_encryption_only(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The name is another machine's, the address this server's, which has no TLS.
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    url = postgres.index_url().replace("127.0.0.1", "db.example")

    with opened_index(url) as index, pytest.raises(StorageError, match="does not support SSL"):
        index.count()
    for mode in ("disable", "allow", "prefer"):
        with pytest.raises(ValueError, match="sslmode must be require, verify-ca, verify-full for a host"):
            parse_postgres_url(f"{url}&sslmode={mode}")
    monkeypatch.setenv("PGSSLMODE", "prefer")
    with opened_index(url) as index, pytest.raises(StorageError, match="without encryption: sslmode must be"):
        index.count()


@pytest.fixture
def debian_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[PostgresServer, Path]]:
    """A PostgreSQL of Debian's that has TLS and no pgvector, and the certificate of db.example."""
    folder = next(Path("/usr/lib/postgresql").glob("*/bin"), None)
    if folder is None or shutil.which("openssl") is None:
        pytest.skip("Debian's postgresql or openssl is not installed")
    monkeypatch.setenv("PGVECTOR_BIN", str(folder))
    with postgres_server.running() as server:
        certificate, key = server.folder / "data" / "server.crt", server.folder / "data" / "server.key"
        subject = ["-subj", "/CN=db.example", "-addext", "subjectAltName=DNS:db.example"]
        make = ["openssl", "req", "-new", "-x509", "-nodes", *subject]
        subprocess.run([*make, "-out", certificate, "-keyout", key], check=True, capture_output=True)
        for path in (certificate, key):
            path.chmod(0o600)
            if server.owner:
                shutil.chown(path, server.owner)
        shutil.copyfile(certificate, tmp_path / "root.crt")
        server.stop()
        with (server.folder / "data" / "postgresql.conf").open("a") as file:
            file.write("ssl = on\n")
        server.start()
        # The name is another machine's, the address this server's.
        monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
        yield server, tmp_path / "root.crt"


def test_encrypted_connections_and_a_missing_extension(debian_server: tuple[PostgresServer, Path]) -> None:
    server, certificate = debian_server
    ((available,),) = server.run("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    if available:
        pytest.skip("this PostgreSQL has pgvector")
    url = server.index_url().replace("127.0.0.1", "db.example")
    verified = f"&sslmode=verify-full&sslrootcert={certificate}"
    missing = (
        "The PostgreSQL server has no pgvector: install the extension there (the hosted ones have it), then "
        "run CREATE EXTENSION vector; in the database postgres."
    )

    refused(url, missing)
    refused(f"{url}{verified}", missing)
    with opened_index(f"{url.replace('db.', 'other.')}{verified}") as index:
        with pytest.raises(StorageError, match="certificate") as caught:
            index.count()
        assert not isinstance(caught.value, TransientError)


def test_missing_rights_are_told_with_what_to_run(postgres: PostgresServer, role: tuple[str, str]) -> None:
    name, _ = role
    database = postgres.new_database()
    url = f"postgresql://{name}:{ESCAPED}@127.0.0.1:{postgres.port}/{database}?table=photos"
    statement = f"run CREATE EXTENSION vector; in {database}"
    refused(url, f"A role that may create extensions must {statement}.")

    postgres.run("CREATE EXTENSION vector", database)
    refused(url, f"The role may not create tables: run GRANT USAGE, CREATE ON SCHEMA public TO {name};")

    with opened_index(postgres.index_url(database)) as index:
        index.upsert([entry("a")])
    tables = "photos, photos_spaces, photos_schema, photos_reports"
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {name};"
    refused(url, f"The role may not use the index: run {grant}")

    postgres.run(grant, database)
    with opened_index(url) as index:
        assert index.upsert([entry("b")]) == [True]
        with pytest.raises(StorageError, match=f"run ALTER TABLE photos OWNER TO {name};"):
            index.upsert([entry("c", space="another")])


def test_a_role_that_only_reads_can_search(postgres: PostgresServer, role: tuple[str, str]) -> None:
    name, _ = role
    database = postgres.new_database()
    with opened_index(postgres.index_url(database)) as index:
        index.upsert([entry("a")])
    postgres.run(f"GRANT SELECT ON photos, photos_spaces, photos_schema, photos_reports TO {name}", database)
    url = f"postgresql://{name}:{ESCAPED}@127.0.0.1:{postgres.port}/{database}?table=photos"

    with opened_index(url) as index:
        for where in (Filter(), Filter(prefix="a")):
            assert [hit.entry.name for hit in index.query(direction("q"), "s", 3, where).hits] == ["a"]


def refused(url: str, sentence: str) -> None:
    with opened_index(url) as index, pytest.raises(StorageError) as caught:
        index.count()
    assert not isinstance(caught.value, TransientError)
    assert str(caught.value) == sentence


def test_a_database_without_unicode_is_refused(postgres: PostgresServer) -> None:
    database = f"t{time.monotonic_ns()}"
    postgres.run(f"CREATE DATABASE {database} ENCODING 'LATIN1' TEMPLATE template0")

    with opened_index(postgres.index_url(database)) as index, pytest.raises(StorageError, match="LATIN1"):
        index.count()


def test_a_table_of_somebody_else_is_left_alone(postgres: PostgresServer, url: str) -> None:
    run(postgres, url, "CREATE TABLE {table} (id int)")

    with opened_index(url) as index, pytest.raises(StorageError, match=r"has a table \w+ or .* no index"):
        index.upsert([entry("a")])

    assert run(postgres, url, "SELECT * FROM {table}") == []


def test_an_older_schema_is_migrated_and_a_newer_one_refused(
    postgres: PostgresServer, url: str, index: PostgresIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([entry("a")])
    added = "ALTER TABLE {table} ADD COLUMN note text; UPDATE {table} SET note = 'migrated';"
    with monkeypatch.context() as newer:
        newer.setattr(postgres_schema, "MIGRATIONS", (*postgres_schema.MIGRATIONS, added))
        indexes = [PostgresIndex(parse_postgres_url(url)) for _ in range(4)]
        run_threads([each.count for each in indexes])
        for each in indexes:
            each.close()

    assert run(postgres, url, "SELECT note FROM {table}") == [("migrated",)]
    assert run(postgres, url, "SELECT version FROM {table}_schema") == [(3,)]
    with opened_index(url) as older, pytest.raises(StorageError, match=r"made by a newer version .*schema 3"):
        older.count()


def test_tables_of_the_first_version_are_migrated(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(postgres_schema, "MIGRATIONS", postgres_schema.MIGRATIONS[:1])
        with opened_index(url) as index:
            assert index.count() == 0
    run(postgres, url, "INSERT INTO {table}_spaces (space, dimensions) VALUES ('s', 3)")
    columns = "bucket, name, generation, space, fingerprint, content_type, size, updated, metadata, vector"
    values = "'photos', 'a', 1, 's', 'f', 'image/png', 5, '2026-05-04T03:02:01.123456Z', '{{}}', '[1, 0, 0]'"
    run(postgres, url, f"INSERT INTO {{table}} ({columns}) VALUES ({values})")

    with opened_index(url) as index:
        old = entry("a", vector=np.array([1, 0, 0], np.float32))
        assert index.get("photos", "a") == old
        (hit,) = index.query(old.vector, "s", 5, Filter(content_type="image/*")).hits
        assert (hit.entry, list(index.generations("photos"))) == (old, [("a", 1, "f", "")])
        assert index.set_labels([LabelChange("photos", "a", 1, {"cat": 0.5}, "x")]) == [True]
        assert len(index.query(old.vector, "s", 5, Filter(label="cat")).hits) == 1
        index.write_report("r", [b"x"])
    assert run(postgres, url, "SELECT version FROM {table}_schema") == [(2,)]


def test_a_large_table_is_sampled_by_pages(
    postgres: PostgresServer, url: str, index: PostgresIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.upsert([entry(f"{number:04}") for number in range(3000)])
    run(postgres, url, "ANALYZE {table}")
    monkeypatch.setattr(postgres_sample, "_OF_KEYS", "SELECT 1/0")
    # A page holds so many of these small rows that only a few pages would be read.
    monkeypatch.setattr(postgres_sample, "READ_MORE", 20.0)

    samples = [index.sample("s", 50) for _ in range(5)]

    assert [len({each.name for each in sample}) for sample in samples] == [50] * 5
    assert len({each.name for sample in samples for each in sample}) > 150


@pytest.mark.parametrize(
    "where",
    [
        Filter(label="rare"),
        Filter(content_type="image/rare"),
        Filter(updated_from=UPDATED.replace(year=2027)),
        Filter(bucket="photos", label="rare", content_type="image/*"),
    ],
    ids=["label", "type", "time", "several"],
)
def test_filters_that_few_rows_match_read_no_others(
    postgres: PostgresServer, url: str, index: PostgresIndex, where: Filter
) -> None:
    index.upsert([entry(f"{number:04}") for number in range(800)])
    rare: dict[str, Any] = {
        "labels": {"rare": 0.5},
        "content_type": "image/rare",
        "updated": UPDATED.replace(year=2027),
    }
    index.upsert([entry(f"x/{number}", **rare) for number in range(3)])
    run(postgres, url, "ANALYZE {table}")
    assert index._extension is not None
    search = postgres_search.make_search(
        index._url, index._extension, direction("q"), "s", 10, where, with_vectors=False
    )
    count = sql.SQL("EXPLAIN SELECT 1 FROM {table} WHERE {condition} LIMIT 2001").format(
        table=sql.Identifier(index._url.table), condition=postgres_search._condition(search)
    )
    lines = index._pool.run(
        lambda connection: connection.execute(count, postgres_search._parameters(search)).fetchall()
    )

    indexes = ["label", "type", "updated", *(["name"] if where.prefix else [])]
    assert any(f"_by_{index_}" in str(lines) for index_ in indexes)
    assert len(index.query(direction("q"), "s", 10, where).hits) == 3


def test_tables_that_are_dropped_are_made_again(
    postgres: PostgresServer, url: str, index: PostgresIndex
) -> None:
    index.upsert([entry("a")])
    assert index.replacements() == 0
    run(postgres, url, "DROP TABLE {table}, {table}_spaces, {table}_schema")

    run_threads([partial(index.query, direction("q"), "s", 1)] * 6)
    assert query_names(index) == []
    assert index.replacements() == 1
    assert index.upsert([entry("b", vector=direction("b", 3))]) == [True]
    assert names(index) == ["b"]


def test_expired_tombstones_are_removed(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "SWEEP_SECONDS", 0.0)
    with opened_index(url, tombstone_ttl=1e-6) as index:
        for name in "abc":
            index.delete("photos", name, 1)

    assert run(postgres, url, "SELECT count(*) FROM {table}") == [(0,)]


def test_each_space_has_a_graph_of_its_own_up_to_2000_dimensions(
    postgres: PostgresServer, url: str, index: PostgresIndex
) -> None:
    spaces = {"it's 100%": 2000, "s": DIMENSIONS, "many": 2001}
    for space, dimensions in spaces.items():
        index.upsert([entry(space, space=space, vector=direction(space, dimensions))])

    graphs = (
        "SELECT indexdef FROM pg_indexes WHERE tablename = '{table}' AND indexdef LIKE '%hnsw%' ORDER BY 1"
    )
    first, second = (str(row[0]) for row in run(postgres, url, graphs))
    assert "(vector)::vector(2000)) vector_cosine_ops)" in first
    assert "WHERE (space = 'it''s 100%'::text)" in first
    assert f"(vector)::vector({DIMENSIONS})) vector_cosine_ops)" in second
    assert "WHERE (space = 's'::text)" in second
    for space, dimensions in spaces.items():
        (hit,) = index.query(direction("q", dimensions), space, 5).hits
        assert hit.entry.name == space


def test_a_narrow_filter_yields_as_many_as_there_are(
    index: PostgresIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few are searched exactly, so that the graph, which has none of these among its nearest, is searched too.
    monkeypatch.setattr(postgres_search, "EXACT_ROWS", 10)
    near = direction("q")
    entries = [entry(f"near/{n:04}", vector=near + 0.01 * direction(f"{n}")) for n in range(1200)]
    entries += [entry(f"far/{n:02}", vector=-near + 0.1 * direction(f"{n}")) for n in range(30)]
    index.upsert(entries)

    hits = index.query(near, "s", 20, Filter(prefix="far/")).hits

    scores = {each.name: float(each.vector @ near / np.linalg.norm(each.vector)) for each in entries}
    best = sorted((name for name in scores if name.startswith("far/")), key=lambda name: -scores[name])
    assert [hit.entry.name for hit in hits] == best[:20]
    assert len(index.query(near, "s", 1000, Filter(prefix="far/")).hits) == 30
    assert len(index.query(near, "s", 1000).hits) == 1000
    assert len(index.query(near, "s", 5, Filter(prefix="far/0")).hits) == 5


def test_removed_neighbors_do_not_hide_others(index: PostgresIndex) -> None:
    near = direction("q")
    index.upsert([entry(f"near/{n:03}", vector=near + 0.01 * direction(f"{n}")) for n in range(300)])
    index.upsert([entry(f"far/{n}", vector=-near + 0.1 * direction(f"{n}")) for n in range(5)])
    for number in range(300):
        index.delete("photos", f"near/{number:03}", 1)

    assert len(index.query(near, "s", 5).hits) == 5


def test_names_that_are_too_long_for_a_key_are_refused_by_name(index: PostgresIndex) -> None:
    with pytest.raises(StorageError, match="more than 2,600 bytes"):
        index.upsert([entry("ü" * 1400)])
    assert index.upsert([entry("ü" * 1200)]) == [True]


def test_half_vectors_where_the_extension_has_them(postgres: PostgresServer, url: str) -> None:
    ((version,),) = postgres.run("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if tuple(map(int, str(version).split("."))) < (0, 7):
        sentence = "vectors=halfvec needs pgvector 0.7 or newer: run ALTER EXTENSION vector UPDATE;"
        refused(f"{url}&vectors=halfvec", sentence)
        return
    with opened_index(f"{url}&vectors=halfvec") as index:
        entries = [entry(f"{number}", vector=direction(f"{number}", 2500)) for number in range(300)]
        index.upsert(entries)
        hits = index.query(direction("q", 2500), "s", 10).hits

        scores = np.array([each.vector for each in entries]) @ direction("q", 2500)
        best = np.argsort(-scores)[:10]
        assert [hit.entry.name for hit in hits] == [entries[row].name for row in best]
        assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-6)
        read = index.get("photos", "7")
        assert read is not None
        assert read.vector.tolist() == entries[7].vector.tolist()
    assert "halfvec(2500)" in str(
        run(postgres, url, "SELECT indexdef FROM pg_indexes WHERE tablename = '{table}'")
    )


POOLER = """
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pooler(postgres: PostgresServer, tmp_path: Path) -> Iterator[int]:
    """The port of a PgBouncer that gives every transaction one of two connections."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    port = free_port()
    # PgBouncer does not run as root, and whom it runs as cannot read the folders of tests.
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file, (tmp_path / "log").open("wb") as log:
        file.write(POOLER.format(server_port=postgres.port, port=port))
        file.flush()
        os.chmod(file.name, 0o644)
        process = subprocess.Popen([program, file.name], stdout=log, stderr=log, user=postgres.owner)
        try:
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def test_an_index_is_reached_through_a_pooler_of_transactions(
    postgres: PostgresServer, url: str, pooler: int
) -> None:
    with opened_index(url.replace(f":{postgres.port}/", f":{pooler}/") + "&connections=8") as index:

        def work(thread: int) -> None:
            for number in range(5):
                name = f"{thread}/{number}"
                assert index.upsert([entry(name), entry(f"{name}/other")]) == [True, True]
                assert index.query(direction(f"{name} 1"), "s", 1).hits[0].entry.name == name
                (hit,) = index.query(direction("q"), "s", 1, Filter(prefix=name)).hits
                assert hit.entry.name.startswith(name)
                assert index.delete("photos", name, 1)

        run_threads([partial(work, number) for number in range(6)])

        assert index.count("s") == 30


def test_a_function_shows_no_password(
    postgres: PostgresServer, role: tuple[str, str], tmp_path: Path
) -> None:
    url = postgres.index_url().replace("postgres@", f"{role[0]}:the-wrong-word@")
    with serving("search", tmp_path / "log", INDEX_URL=url, LOG_LEVEL="DEBUG", MODEL="demo") as server:
        reply = server.post("/search", json={"text": "a cat"})

    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "storage_failed")
    log = (tmp_path / "log").read_text()
    assert "password authentication failed" in log
    assert "the-wrong-word" not in log + reply.text
    assert "the-wrong-word" not in refusal("search", INDEX_URL=f"{url}&table=again")


def test_a_function_searches_and_survives_a_restart(tmp_path: Path) -> None:
    with postgres_server.running() as database:
        settings = {"INDEX_URL": database.index_url(), "MODEL": "demo"}
        with serving("search", tmp_path / "log", **settings) as server:
            for _ in range(2):
                reply = server.post("/search", json={"text": "a cat"})
                assert reply.status_code == 200, (tmp_path / "log").read_text()
                assert reply.json()["notice"].startswith("The index is empty")
                database.kill()
                database.start()
