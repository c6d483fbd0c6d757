"""The contract of Bucket, for a folder and for Cloud Storage."""

from functools import partial
from itertools import chain, combinations
from pathlib import Path

import pytest

from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.gcs import GcsBucket
from clip_embeddings.storage.types import Bucket, NameRange, NotFoundError, TooLargeError
from tests.support.buckets import write_object
from tests.support.threads import run_threads


@pytest.mark.parametrize(
    ("url", "bucket"),
    [
        ("file:///some/folder", FileBucket(Path("/some/folder"))),
        ("file://localhost/some/folder/", FileBucket(Path("/some/folder"))),
        ("file:///with%20space", FileBucket(Path("/with space"))),
    ],
)
def test_file_urls(url: str, bucket: FileBucket) -> None:
    assert open_bucket(url) == bucket


@pytest.mark.parametrize(
    ("url", "name", "prefix"),
    [("gs://name", "name", ""), ("gs://name/", "name", ""), ("gs://na.me/a/b/", "na.me", "a/b/")],
)
def test_gs_urls(url: str, name: str, prefix: str) -> None:
    bucket = open_bucket(url)

    assert isinstance(bucket, GcsBucket)
    assert (bucket.bucket, bucket.prefix, bucket.url) == (name, prefix, f"gs://{name}/{prefix}")
    assert not bucket.client.made


NOT_A_FILE = ["folder", "/folder", "file:folder", "file://host/folder", "file:///x#y", "file:", "", " "]
NOT_A_BUCKET = ["gs://", "gs:///x", "gs://UP/x", "gs://bucket/x?y", "gs://user@bucket/x", "s3://bucket/x"]


@pytest.mark.parametrize("url", NOT_A_FILE + NOT_A_BUCKET)
def test_other_urls_are_refused_with_the_forms_that_are_allowed(url: str) -> None:
    with pytest.raises(ValueError, match=r"use file:///folder or gs://bucket/prefix"):
        open_bucket(url)


@pytest.mark.parametrize(
    "data", [b"", b"\r\n--\r\n\0\xff\n\n", bytes(9_000_000)], ids=["none", "odd", "large"]
)
def test_an_object_is_read_as_it_was_written(bucket: Bucket, data: bytes) -> None:
    assert bucket.create("a/b.json", data, "application/json")

    read, generation = bucket.read("a/b.json")
    stat = bucket.stat("a/b.json")
    assert read == data
    assert stat is not None
    assert (stat.generation, stat.size, stat.content_type) == (generation, len(data), "application/json")


@pytest.mark.parametrize(
    "name", ["with space", "ünï/çødé.jpg", "100%25.txt", "a?b#c&d=e", "a\\b", "~", "..."]
)
def test_unusual_names_are_allowed(bucket: Bucket, name: str) -> None:
    assert bucket.create(name, b"x")
    assert bucket.read(name)[0] == b"x"
    assert list(bucket.names()) == [name]
    assert bucket.delete(name)


def test_create_never_overwrites(bucket: Bucket) -> None:
    assert bucket.create("a", b"first")
    generation = bucket.read("a")[1]

    assert not bucket.create("a", b"second")
    assert bucket.read("a") == (b"first", generation)


def test_of_many_concurrent_creates_of_one_name_one_succeeds(bucket: Bucket) -> None:
    results: dict[bytes, bool] = {}

    def create(data: bytes) -> None:
        results[data] = bucket.create("a", data)

    run_threads([partial(create, b"%d" % number) for number in range(8)])

    (winner,) = [data for data, created in results.items() if created]
    assert bucket.read("a")[0] == winner


def test_overwriting_makes_a_later_generation_and_the_old_one_is_gone(bucket: Bucket) -> None:
    first = write_object(bucket, "a", b"1")
    second = write_object(bucket, "a", b"22")

    assert second > first
    assert bucket.read("a") == bucket.read("a", generation=second) == (b"22", second)
    with pytest.raises(NotFoundError):
        bucket.read("a", generation=first)


def test_deleting(bucket: Bucket) -> None:
    bucket.create("a/b", b"1")

    assert bucket.delete("a/b")

    assert not bucket.delete("a/b")
    assert bucket.stat("a/b") is None
    assert bucket.create("a", b"a name that was a folder is free again")


def test_missing_objects(bucket: Bucket) -> None:
    for name in ("a", "a/b", "a/b/c"):
        with pytest.raises(NotFoundError):
            bucket.read(name)
        assert bucket.stat(name) is None
    assert list(bucket.names()) == []


def test_names_by_prefix(bucket: Bucket) -> None:
    names = {f"{folder}/{number}" for folder in ("aa", "ab", "b/c") for number in range(25)}
    for name in names:
        bucket.create(name, b"")

    for prefix in ("", "a", "aa", "aa/", "aa/1", "b", "b/c/2", "x", "a/"):
        assert sorted(bucket.names(prefix)) == sorted(name for name in names if name.startswith(prefix))


@pytest.mark.parametrize("size", [11, 5_000_000])
def test_reading_is_bounded(bucket: Bucket, size: int) -> None:
    bucket.create("a", bytes(size))

    with pytest.raises(TooLargeError):
        bucket.read("a", max_bytes=10)
    assert len(bucket.read("a", max_bytes=size)[0]) == size


def test_stats_come_in_the_order_of_names(bucket: Bucket) -> None:
    names = ["b", "a/b", "a.b", "a/ä", "a/c/d.png", "Z", *(f"a/{number:03}" for number in range(60))]
    generations = {name: write_object(bucket, name, bytes(len(name))) for name in names}

    stats = dict(bucket.stats())

    assert list(stats) == sorted(names, key=str.encode)
    assert {name: stat.generation for name, stat in stats.items()} == generations
    assert all(stat == bucket.stat(name) and stat.size == len(name) for name, stat in stats.items())
    assert [name for name, _ in bucket.stats("a/c")] == ["a/c/d.png"]


def test_ranges_of_names(bucket: Bucket) -> None:
    names = [
        "Z",
        "a",
        "a.b",
        *(f"c/{number:03}" for number in range(60)),
        "c/ä",
        "d.e/f/g",
        "d/e",
        "ü/\U0001f600",
    ]
    for name in names:
        bucket.create(name, b"")
    bounds = ["", "Z", "c", "c/0", "c/017", "d.e/f/", "d/", "ü", "\U0010ffff"]

    for start, end in combinations([*bounds, None], 2):
        within = NameRange(str(start), end)
        listed = [name for name, _ in bucket.stats("", within)]
        assert listed == sorted(
            name for name in names if name >= within.start and (end is None or name < end)
        )
        pages = list(bucket.name_pages("", within, page_size=7))
        assert list(chain(*pages)) == listed
        assert all(len(page) <= 7 for page in pages)
        assert [name for name, _ in bucket.stats("c/", within)] == [n for n in listed if n.startswith("c/")]
