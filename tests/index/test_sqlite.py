"""SQLite: many processes, forks, kills, and matrices that follow the file."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clip_embeddings.index import sqlite_connections
from clip_embeddings.index.factory import default_url, open_index
from clip_embeddings.index.sqlite import SqliteIndex
from clip_embeddings.index.sqlite_rows import filter_condition
from clip_embeddings.index.types import Filter, Index, LabelChange
from clip_embeddings.storage.types import StorageError, TransientError
from tests.support.entries import UPDATED, direction, entry
from tests.support.index_process import BATCH, row_name
from tests.support.indexes import close_index, opened_index
from tests.support.logs import propagated
from tests.support.serving import ROOT
from tests.support.threads import run_threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index" / "photos.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[SqliteIndex]:
    index = SqliteIndex(path)
    yield index
    close_index(index)


def query_all(index: Index, query: str = "q", k: int = 1000) -> list[tuple[str, float]]:
    hits = index.query(direction(query), "s", k).hits
    return [(hit.entry.name, round(hit.score, 4)) for hit in hits]


def test_urls_and_the_default_url(tmp_path: Path) -> None:
    with opened_index(f"sqlite://{tmp_path}/with%20blank/x.sqlite") as index:
        index.upsert([entry()])

    assert (tmp_path / "with blank" / "x.sqlite").is_file()
    assert (tmp_path / "with blank").stat().st_mode & 0o777 == 0o700
    url = default_url("file:///photos")
    assert f"/clip-index-{os.getuid()}/" in url
    assert len({url, default_url("gs://photos"), default_url(None)}) == 3
    open_index(url)


# The tables of files that were made before there were labels and versions of the schema.
FIRST_SCHEMA = """
CREATE TABLE entries (
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
CREATE INDEX by_version ON entries (version);
CREATE INDEX by_space ON entries (space, version) WHERE space IS NOT NULL;
CREATE INDEX by_name ON entries (space, name, bucket) WHERE space IS NOT NULL;
CREATE INDEX by_expiry ON entries (expires) WHERE expires IS NOT NULL;
CREATE TABLE spaces (space TEXT PRIMARY KEY, dimensions INTEGER NOT NULL);
CREATE TABLE state (version INTEGER NOT NULL, swept INTEGER NOT NULL);
INSERT INTO state VALUES (2, 0);
INSERT INTO spaces VALUES ('s', 16);
INSERT INTO entries (bucket, name, generation, version, expires) VALUES ('photos', 'gone', 7, 2, 9e9);
"""


def test_a_file_of_the_first_schema_is_migrated(path: Path) -> None:
    path.parent.mkdir()
    old = [entry(name, metadata={"who": "me"}) for name in "ab"]
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript("PRAGMA journal_mode = WAL;" + FIRST_SCHEMA)
        for each in old:
            file.execute(
                "INSERT INTO entries (bucket, name, generation, space, fingerprint, content_type, size,"
                " updated, metadata, vector, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
                [
                    *(each.bucket, each.name, each.generation, each.space, each.fingerprint),
                    *(each.content_type, each.size, each.updated.isoformat()),
                    *(json.dumps(each.metadata), each.vector.tobytes()),
                ],
            )

    indexes = [SqliteIndex(path) for _ in range(4)]
    run_threads([each.count for each in indexes])

    index = indexes[0]
    assert [index.get("photos", name) for name in "ab"] == old
    assert list(index.generations("photos")) == [("a", 1, "f", ""), ("b", 1, "f", "")]
    assert len(query_all(index)) == 2
    assert index.query(direction("q"), "s", 5, Filter(label="cat")).hits == []
    assert len(index.query(direction("q"), "s", 5, Filter(content_type="image/*")).hits) == 2
    assert index.set_labels([LabelChange("photos", "a", 1, {"cat": 0.5}, "x")]) == [True]
    assert index.upsert([entry("gone", 7), entry("b", 2, labels={"cat": 1.0})]) == [False, True]
    assert len(index.query(direction("q"), "s", 5, Filter(label="cat")).hits) == 2
    index.write_report("r", [b"x"])
    close_index(index)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_of_a_newer_version_is_refused(path: Path, index: SqliteIndex) -> None:
    index.upsert([entry("a")])
    close_index(index)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA user_version = 3")

    with (
        opened_index(f"sqlite://{path}") as older,
        pytest.raises(StorageError, match=r"newer .*schema 3, here 2"),
    ):
        older.count()


def test_filters_read_an_index_without_vectors(path: Path, index: SqliteIndex) -> None:
    index.upsert([entry("a", labels={"cat": 0.5})])
    where = Filter("photos", "a", UPDATED, UPDATED, "cat", "image/*")
    condition, parameters = filter_condition(where)
    with closing(sqlite3.connect(path)) as file:
        select = f"SELECT id FROM entries INDEXED BY by_name WHERE space = ? AND {condition}"
        (*_, plan), *others = file.execute(f"EXPLAIN QUERY PLAN {select}", ("s", *parameters)).fetchall()

    assert "USING COVERING INDEX by_name" in plan
    assert others == []


def start_process(action: str, path: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.index_process", action, f"sqlite://{path}"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    "rows", [pytest.param(4_000, id="4000"), pytest.param(50_000, id="50000", marks=pytest.mark.full)]
)
def test_four_writing_processes_and_one_that_searches(path: Path, index: SqliteIndex, rows: int) -> None:
    rows_of_each, dimensions = rows // 4, 512
    searcher = start_process("search", path, dimensions)
    writers = [start_process("write", path, writer, rows_of_each, dimensions) for writer in "abcd"]

    for writer in writers:
        _, error = writer.communicate(timeout=600)
        assert (writer.returncode, error) == (0, b"")
    queries, error = searcher.communicate(timeout=60)
    assert (searcher.returncode, error) == (0, b"")
    assert int(queries) > 0

    names = [row_name(writer, number) for writer in "abcd" for number in range(rows_of_each)]
    assert [name for name, *_ in index.generations("photos")] == names
    assert index.count("s") == rows
    # Every vector in the matrix.
    index.query(direction("q", dimensions), "s", 1)
    matrix = index._matrices["s"]
    with closing(sqlite3.connect(path)) as file:
        ids = dict(file.execute("SELECT name, id FROM entries"))
    for name in names:
        assert np.array_equal(matrix._rows[matrix._positions[ids[name]]], direction(name, dimensions))


def test_a_killed_writer_leaves_whole_batches(path: Path, index: SqliteIndex) -> None:
    rng = random.Random(1)
    for number in range(3):
        writer = start_process("write", path, number, 100_000, 16)
        with writer:
            deadline = time.monotonic() + 60
            while not list(index.generations("photos", f"{number}/")) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)

        names = [name for name, *_ in index.generations("photos", f"{number}/")]
        assert names == [row_name(str(number), position) for position in range(len(names))]
        assert 0 < len(names) < 100_000
        assert len(names) % BATCH == 0
        assert len(query_all(index, k=1_000_000)) == index.count()


def test_a_refreshed_matrix_equals_a_new_one(path: Path, index: SqliteIndex) -> None:
    rng = random.Random(7)
    with opened_index(f"sqlite://{path}", tombstone_ttl=0.02) as writer:
        for generation in range(1, 120):
            names = [str(rng.randrange(40)) for _ in range(rng.randrange(4))]
            writer.upsert([entry(name, generation, space=rng.choice("sst")) for name in names])
            for _ in range(rng.randrange(3)):
                # Also removes the tombstones that have expired.
                writer.delete("photos", str(rng.randrange(40)), generation)
            if rng.random() < 0.5:
                continue
            with opened_index(f"sqlite://{path}") as new:
                assert query_all(index) == query_all(new)
    assert 0 < len(query_all(index)) < 40


def test_a_matrix_notices_a_tombstone_that_expired_before_it_was_refreshed(
    path: Path, index: SqliteIndex
) -> None:
    index.upsert([entry(name) for name in "abc"])
    assert len(query_all(index)) == 3
    with opened_index(f"sqlite://{path}", tombstone_ttl=1e-6) as other:
        other.delete("photos", "a", 1)
        time.sleep(0.001)
        other.delete("photos", "nothing", 1)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM entries WHERE name = 'a'").fetchone() == (0,)

    assert sorted(name for name, _ in query_all(index)) == ["b", "c"]


def test_equal_scores_are_ordered_by_first_write(index: SqliteIndex) -> None:
    same = direction("same")
    index.upsert([entry(f"{number}", vector=same) for number in range(50)])
    index.delete("photos", "3", 1)

    hits = index.query(same, "s", 5).hits

    assert [hit.entry.name for hit in hits] == ["0", "1", "2", "4", "5"]


def test_threads_share_an_index(index: SqliteIndex) -> None:
    def work(thread: int) -> None:
        for number in range(30):
            name = f"{thread}/{number}"
            index.upsert([entry(name)])
            assert index.query(direction(f"{name} 1"), "s", 1).hits[0].entry.name == name
            if number % 3 == 0:
                index.delete("photos", name, 1)

    run_threads([partial(work, number) for number in range(6)])

    assert index.count() == len(query_all(index)) == 6 * 20


FORKING = """
import os, sys, threading
from clip_embeddings.index.factory import open_index
from tests.support.entries import UPDATED, direction, entry
from tests.support.indexes import close_index

index = open_index(sys.argv[1])
index.upsert([entry("before")])
index.query(direction("q"), "s", 1)
done = threading.Event()

def busy():
    while not done.is_set():
        index.upsert([entry("parent", 2)])
        index.query(direction("q"), "s", 3)

threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for number in range(20):
    if not os.fork():
        # The parent's connections are closed here, and its matrix is still used.
        index.upsert([entry(f"child {number}")])
        names = {hit.entry.name for hit in index.query(direction("q"), "s", 100).hits}
        os._exit(0 if {"before", f"child {number}"} <= names else 1)
    _, status = os.wait()
    assert status == 0, status
done.set()
for thread in threads:
    thread.join()
assert index.count() == 22, index.count()
close_index(index)
"""


def test_an_index_works_in_both_processes_after_a_fork(path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, f"sqlite://{path}"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_writer_waits_for_another(path: Path, index: SqliteIndex) -> None:
    index.upsert([entry("a")])
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.execute, ["COMMIT"])
        timer.start()

        assert index.query(direction("q"), "s", 1).hits != []
        assert index.upsert([entry("b")]) == [True]
        timer.join()


def test_a_file_that_stays_busy_is_a_transient_error(
    path: Path, index: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connections, "BUSY_TIMEOUT", 0.1)
    index.upsert([entry("a")])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(TransientError, match="The index is busy"):
            index.upsert([entry("b")])
        with pytest.raises(TransientError, match="The index is busy"):
            index.delete("photos", "a", 1)

    assert index.upsert([entry("b")]) == [True]


def test_files_that_are_not_an_index_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a database, but long enough to be looked at" * 100)
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with opened_index(f"sqlite://{path}") as index, pytest.raises(StorageError) as caught:
            index.upsert([entry()])
        assert not isinstance(caught.value, TransientError)
        assert str(caught.value).startswith("The ")
        # Only what the reader must delete is named.
        assert (str(path) in str(caught.value)) == ("is damaged" in str(caught.value)) == path.is_file()


@pytest.mark.parametrize("removed", ["all files", "the database alone"])
def test_a_file_that_is_removed_is_made_again(
    path: Path, index: SqliteIndex, removed: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened_index(f"sqlite://{path}") as other:
        index.upsert([entry("a"), entry("b")])
        assert len(query_all(index)) == len(query_all(other)) == 2
        for found in list(path.parent.iterdir()) if removed == "all files" else [path]:
            found.unlink()

        with propagated(caplog):
            assert (index.replacements(), query_all(index), query_all(other)) == (1, [], [])
            assert other.upsert([entry("c", 2)]) == [True]

        assert [name for name, _ in query_all(index)] == [name for name, _ in query_all(other)] == ["c"]
        assert (index.replacements(), other.replacements()) == (1, 1)
    assert f"The index's file {path} was removed: a new one is begun." in caplog.text
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_is_replaced_is_read_anew(path: Path, index: SqliteIndex, tmp_path: Path) -> None:
    index.upsert([entry("a")])
    assert len(query_all(index)) == 1
    with opened_index(f"sqlite://{tmp_path}/backup.sqlite") as backup:
        backup.upsert([entry("b"), entry("c", space="t")])
    (tmp_path / "backup.sqlite").rename(path)

    # Not with the changes to the first file, which SQLite may have kept beside it.
    assert [name for name, _ in query_all(index)] == ["b"]
    assert (index.count(), index.replacements()) == (2, 1)


def test_threads_go_on_while_the_file_is_removed_again_and_again(path: Path, index: SqliteIndex) -> None:
    ended = threading.Event()

    def work(thread: int) -> None:
        while not ended.is_set():
            # A file that is removed while it is opened may be an error for once.
            with suppress(StorageError):
                index.upsert([entry(f"{thread}")])
                query_all(index)

    def remove() -> None:
        deadline = time.monotonic() + 60
        while index.replacements() < 10 and time.monotonic() < deadline:
            path.unlink(missing_ok=True)
            time.sleep(0.01)
        ended.set()

    run_threads([remove, *(partial(work, number) for number in range(3))])

    index.upsert([entry(f"{number}") for number in range(3)])
    assert index.count() == len(query_all(index)) == 3
    # On a busy machine the threads come to fewer removals until the deadline.
    assert index.replacements() > 0
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_failed_batch_writes_nothing(path: Path, index: SqliteIndex) -> None:
    index.upsert([entry("a")])
    with closing(sqlite3.connect(path)) as file:
        abort = "BEGIN SELECT RAISE(ABORT, 'full'); END"
        file.execute(f"CREATE TRIGGER full BEFORE INSERT ON entries WHEN NEW.name = 'c' {abort}")

    with pytest.raises(StorageError, match="full"):
        index.upsert([entry("b"), entry("c")])

    assert [name for name, _ in query_all(index)] == ["a"]
    assert os.path.exists(path)
