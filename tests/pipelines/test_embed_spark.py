"""The Spark job with the real engine: every row once, with the right vector, whatever is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.config import ImageSettings
from clip_embeddings.engine.manifest import fingerprint
from clip_embeddings.storage.gcs import GcsBucket
from tests.support import spark
from tests.support.buckets import write_object
from tests.support.gcs_server import GcsServer
from tests.support.indexes import opened_index
from tests.support.photographs import crops, photo
from tests.support.pictures import picture, web
from tests.support.postgres_server import PostgresServer
from tests.support.vectors import assert_images, assert_texts, model, raw_images

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(spark.missing() is not None, reason=spark.missing() or ""),
]

MODEL = ("--model", "demo")
COLUMNS = {"uri", "generation", "vector", "space", "fingerprint", "error"}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of 5,000 small pictures, by URI."""
    folder = tmp_path_factory.mktemp("album")
    files = {}
    images = [photo(name).convert("RGB") for name in ("chelsea", "coffee", "rocket")]
    for number in range(5000):
        name = f"{number % 10}/{number:04} é.jpg"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        # Each is cut out elsewhere.
        left, top = number // 3 % 200, number // 600 * 20
        part = images[number % 3].crop((left, top, left + 100, top + 100))
        part.save(path, quality=80)
        files[f"{folder.as_uri()}/{name}"] = path.read_bytes()
    return folder, files


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def manifest(path: Path, files: Mapping[str, object]) -> Path:
    """A list of URIs, some of them twice."""
    uris = list(files)
    return write_csv(path, ["uri"], [[uri] for uri in [*uris, *uris[:100]]])


def assert_all_once(rows: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]) -> None:
    """Assert that every picture has one row with its vector."""
    assert len(rows) == len(files)
    vectors = {row["uri"]: row["vector"] for row in rows}
    assert {row["error"] for row in rows} == {None}
    assert vectors.keys() == files.keys()
    for start in range(0, len(files), 500):
        uris = list(files)[start : start + 500]
        assert_images([vectors[uri] for uri in uris], *(files[uri] for uri in uris))


def image_fingerprint() -> str:
    images = ImageSettings()
    return fingerprint(model().manifest.towers["image"].fingerprint, images.exif, images.exact)


def test_every_row_is_there_once_though_an_executor_is_killed(
    album: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    _, files = album
    uris = manifest(tmp_path / "uris.csv", files)
    output = tmp_path / "vectors"

    with spark.running(
        tmp_path, *MODEL, "--input", str(uris), "--output", str(output), "--tasks", "40"
    ) as job:
        spark.wait_for_parts(job, output, 15)
        victim, _ = job.executors()
        os.kill(victim, signal.SIGKILL)
        log = job.wait()

    assert "embedded 5,000, failed 0" in log
    # It was noticed, and its work was done again.
    assert "Lost executor" in log
    rows = spark.read(output)
    assert {*rows[0]} == COLUMNS
    assert {row["space"] for row in rows} == {model().manifest.space}
    assert {row["fingerprint"] for row in rows} == {image_fingerprint()}
    assert_all_once(rows, files)


def test_a_job_that_was_killed_is_continued(album: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, files = album
    output = tmp_path / "vectors"
    arguments = (*MODEL, "--input", folder.as_uri(), "--output", str(output))

    with spark.running(tmp_path, *arguments, "--tasks", "40", master="local[2]") as job:
        spark.wait_for_parts(job, output, 15)
    before = len(spark.read(output))
    log = spark.run(tmp_path, *arguments)
    again = spark.run(tmp_path, *arguments)

    assert 15 * 100 < before < 5000
    assert f"embedded {5000 - before:,}, failed 0" in log
    assert "there is nothing to embed" in again
    assert_all_once(spark.read(output), files)


def test_what_was_written_again_is_embedded_again(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "vectors"
    photos.mkdir()
    for name, kind in (("a.jpg", "chelsea"), ("b.jpg", "coffee")):
        (photos / name).write_bytes(picture(kind))
    arguments = (*MODEL, "--input", photos.as_uri(), "--output", str(output))

    first = spark.run(tmp_path, *arguments)
    (photos / "b.jpg").write_bytes(picture("rocket"))
    second = spark.run(tmp_path, *arguments)
    # Pictures that are decoded otherwise have another fingerprint.
    third = spark.run(tmp_path, *arguments, "--setting", "EXACT_DECODE=true")

    assert "embedded 2, failed 0" in first
    assert "embedded 1, failed 0" in second
    assert "embedded 2, failed 0" in third
    rows = spark.read(output)
    generations = {row["generation"] for row in rows if row["uri"].endswith("b.jpg")}
    assert len(generations) == 2
    assert (photos / "b.jpg").stat().st_ctime_ns in generations
    assert len({row["fingerprint"] for row in rows}) == 2


def test_rows_that_fail_are_rows_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(picture()[:500])
    (tmp_path / "good.png").write_bytes(picture(kind="PNG"))
    with web({"/good.jpg": picture("coffee")}) as site:
        expected = {
            f"{site}/good.jpg": None,
            f"{site}/none.jpg": "fetch_failed",
            f"{tmp_path.as_uri()}/good.png": None,
            f"{tmp_path.as_uri()}/text.txt": "image_unsupported",
            f"{tmp_path.as_uri()}/cut.jpg": "image_undecodable",
            f"{tmp_path.as_uri()}/none.jpg": "object_not_found",
            "http://10.0.0.1/a.jpg": "url_forbidden",
            "ftp://example.com/a.jpg": "url_invalid",
            "gs://a/": "url_invalid",
        }
        lines = [{"URL": uri} for uri in ("", *expected)]
        source = tmp_path / "uris.jsonl"
        source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        output = tmp_path / "vectors"
        arguments = (*MODEL, "--input", str(source), "--uris", "url", "--output", str(output))
        private = (
            "--setting",
            "FETCH_PRIVATE_HOSTS=127.0.0.1",
            "--setting",
            f"FETCH_PORTS=80,{site.rpartition(':')[2]}",
        )
        log = spark.run(tmp_path, *arguments, *private)
        rows = {row["uri"]: row for row in spark.read(output)}
        again = spark.run(tmp_path, *arguments, *private)
        retried = spark.run(tmp_path, *arguments, *private, "--retry-failed")

    assert "embedded 2, failed 7" in log
    assert {uri: row["error"] and row["error"].partition(":")[0] for uri, row in rows.items()} == expected
    assert [row["vector"] is None for row in rows.values()] == [
        row["error"] is not None for row in rows.values()
    ]
    assert_images([rows[f"{site}/good.jpg"]["vector"]], picture("coffee"))
    assert rows[f"{site}/good.jpg"]["generation"] is None
    assert "there is nothing to embed" in again
    assert "embedded 0, failed 7" in retried


def test_a_column_of_texts(tmp_path: Path) -> None:
    long = "x" * 10_001
    texts = ["a cat", 'a "red" fire engine,\non two lines', "Köln & 100 % + more", "", long]
    source = write_csv(tmp_path / "texts.csv", ["id", "Caption"], list(enumerate(texts)))
    output = tmp_path / "vectors"
    arguments = (*MODEL, "--input", str(source), "--uris", "ID", "--output", str(output))

    spark.run(tmp_path, *arguments, "--texts", "caption")
    rows = {row["uri"]: row for row in spark.read(output)}
    # A text that has changed is embedded again.
    write_csv(source, ["id", "Caption"], [[0, "a cat"], [1, "a dog"]])
    log = spark.run(tmp_path, *arguments, "--texts", "caption")

    # An empty field of a CSV file is no text.
    assert {*rows} == {"0", "1", "2", "4"}
    assert_texts([rows[str(number)]["vector"] for number in range(3)], *texts[:3])
    assert rows["4"]["error"].startswith("text_too_long: ")
    assert {row["fingerprint"] for row in rows.values()} == {model().manifest.towers["text"].fingerprint}
    assert "embedded 1, failed 0" in log


def test_an_inventory_report_as_it_is_and_a_bucket(gcs: GcsBucket, server: GcsServer, tmp_path: Path) -> None:
    photos = GcsBucket(gcs.bucket, "photos/", gcs.client)
    names = ('a "quoted", name.jpg', "b é.jpg", "replaced.jpg")
    generations = {name: write_object(photos, name, picture(), "image/jpeg") for name in names}
    write_object(photos, "replaced.jpg", picture("coffee"), "image/jpeg")
    header = ["project", "bucket", "name", "timeDeleted", "generation", "contentType", "size"]
    rows = [
        *(["1", gcs.bucket, f"photos/{name}", "", generations[name], "image/jpeg", 12] for name in names),
        ["1", gcs.bucket, "photos/removed.jpg", "2024-01-01T00:00:00Z", "1600000000000000", "", 1],
    ]
    source = write_csv(tmp_path / "report.csv", header, rows)
    output = tmp_path / "vectors"
    arguments = (*MODEL, "--output", str(output))
    emulator = {"STORAGE_EMULATOR_HOST": server.url}

    log = spark.run(tmp_path, *arguments, "--input", str(source), **emulator)
    reported = {row["uri"]: row for row in spark.read(output)}
    listing = f"gs://{gcs.bucket}/photos/"
    listed = spark.run(tmp_path, *arguments, "--input", listing, **emulator)

    assert "embedded 2, failed 1" in log
    assert {row["uri"].removeprefix(listing): row["generation"] for row in reported.values()} == generations
    # The report is older than the newest generation, which is not taken for the one that it names.
    assert reported[f"{listing}replaced.jpg"]["error"].startswith("object_not_found: ")
    assert_images([reported[f"{listing}{name}"]["vector"] for name in names[:2]], picture(), picture())
    assert "embedded 1, failed 0" in listed


def test_vectors_go_to_an_index_in_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    files = crops(40)
    for name, data in files.items():
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (photos / "text.txt").write_text("no picture")
    url = postgres.index_url(table="spark")
    failures = tmp_path / "failures"
    arguments = (*MODEL, "--input", photos.as_uri(), "--output", url, "--failures", str(failures))

    log = spark.run(tmp_path, *arguments)
    again = spark.run(tmp_path, *arguments)

    assert "embedded 40, failed 1" in log
    assert "there is nothing to embed" in again
    (failure,) = spark.read(failures)
    assert failure["uri"].endswith("text.txt")
    with opened_index(url) as index:
        assert index.count() == 40
        bucket = f"{photos.as_uri()}/"
        name, data = next(iter(files.items()))
        entry = index.get(bucket, name)
        assert entry is not None
        assert (entry.fingerprint, entry.size) == (image_fingerprint(), len(data))
        assert entry.generation == (photos / name).stat().st_ctime_ns
        (hit,) = index.query(raw_images(data)[0], model().manifest.space, 1).hits
    assert hit.entry.name == name
