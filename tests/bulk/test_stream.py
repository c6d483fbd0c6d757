"""Rows to vectors in one process, as a worker of a cluster does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clip_embeddings.bulk import stream
from clip_embeddings.bulk.rows import EmbeddedRow, SourceRow, split_uri
from clip_embeddings.bulk.worker import WorkerOptions, embed_rows, open_runtime, provenance
from clip_embeddings.engine.model import IMAGE_ROWS
from clip_embeddings.errors import ApiError, ConfigError
from clip_embeddings.runtime import Runtime
from tests.support.pictures import picture, web
from tests.support.vectors import assert_images, assert_texts, model

SETTINGS = {"MODEL": "demo", "MEMORY_LIMIT": "1Gi", "MODEL_THREADS": "1", "FETCH_PRIVATE_HOSTS": "127.0.0.1"}


def options(tower: str = "image", **settings: str) -> WorkerOptions:
    """The options of a worker."""
    pairs = tuple(sorted({**SETTINGS, **settings}.items()))
    return WorkerOptions("text" if tower == "text" else "image", pairs)


def by_uri(rows: Iterator[EmbeddedRow]) -> dict[str, EmbeddedRow]:
    """Rows by what identifies them, each of which is there once."""
    listed = list(rows)
    unique = {row.source.uri: row for row in listed}
    assert len(unique) == len(listed)
    return unique


def test_every_row_has_its_vector_or_its_error(tmp_path: Path) -> None:
    kinds = ("chelsea", "coffee", "rocket")
    for number in range(9):
        (tmp_path / f"{number} é.jpg").write_bytes(picture(kinds[number % 3]))
    (tmp_path / "text.txt").write_text("no picture")
    with web({"/a.jpg": picture("coffee")}) as site:
        # An address of this machine is one of those that may be fetched, at any port that is named.
        here = options(FETCH_PORTS=site.rpartition(":")[2])
        uris = [*(f"{tmp_path.as_uri()}/{number} é.jpg" for number in range(9)), f"{site}/a.jpg"]
        bad = {
            f"{tmp_path.as_uri()}/text.txt": "image_unsupported",
            f"{tmp_path.as_uri()}/none.jpg": "object_not_found",
            f"{site}/none.jpg": "fetch_failed",
            "http://10.0.0.1/a.jpg": "url_forbidden",
            "s3://bucket/a.jpg": "url_invalid",
            "gs://UPPER/a.jpg": "url_invalid",
        }
        rows = by_uri(embed_rows((SourceRow(uri) for uri in [*bad, *uris]), here))

    assert {uri: (rows[uri].error or "").partition(":")[0] for uri in bad} == bad
    assert all(rows[uri].vector is None for uri in bad)
    expected = [*(picture(kinds[number % 3]) for number in range(9)), picture("coffee")]
    assert_images([rows[uri].vector for uri in uris], *expected)
    assert rows[uris[0]].generation == (tmp_path / "0 é.jpg").stat().st_ctime_ns
    assert rows[uris[0]].size == len(expected[0])
    assert rows[f"{site}/a.jpg"].generation is None


def test_only_the_generation_of_the_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    row = SourceRow(path.as_uri(), path.stat().st_ctime_ns)
    older = replace(row, generation=1)

    (present,) = embed_rows([row], options())
    (gone,) = embed_rows([older], options())

    assert present.error is None
    assert (gone.error or "").startswith("object_not_found: ")
    assert gone.generation == 1


def test_texts_fail_one_by_one() -> None:
    texts = {"a": "a cat", "b": "x" * 10_001, "c": "", "d": "Köln & more"}

    rows = by_uri(embed_rows((SourceRow(uri, 7, text) for uri, text in texts.items()), options("text")))

    assert (rows["b"].error or "").startswith("text_too_long: ")
    assert_texts([rows[uri].vector for uri in "acd"], texts["a"], texts["c"], texts["d"])
    assert {row.generation for row in rows.values()} == {7}


def test_batches_are_filled_across_rows_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    (tmp_path / "text.txt").write_text("no picture")
    taken = 0
    sizes: list[int] = []

    def rows() -> Iterator[SourceRow]:
        nonlocal taken
        for _ in range(10 * IMAGE_ROWS):
            taken += 1
            yield SourceRow(path.as_uri())
            # What fails leaves no gap in a batch.
            yield SourceRow(f"{tmp_path.as_uri()}/text.txt")

    def counting(batch: list[object], *arguments: object) -> Iterator[EmbeddedRow]:
        sizes.append(len(batch))
        # The input is read no further ahead than the runs that memory is bounded to.
        assert taken <= (stream.RUNS_AHEAD + 2) * IMAGE_ROWS * len(sizes)
        return embed(batch, *arguments)  # type: ignore[arg-type]

    embed = stream._embed_decoded
    monkeypatch.setattr(stream, "_embed_decoded", counting)

    results = list(embed_rows(rows(), options()))

    assert len(results) == 20 * IMAGE_ROWS
    assert sizes == [IMAGE_ROWS] * 10


def test_a_job_knows_the_fingerprint_before_it_begins() -> None:
    runtime: Runtime = open_runtime(options())
    assert provenance(options()).fingerprint == runtime.image_fingerprint(runtime.default_model())
    assert provenance(options(EXACT_DECODE="true")).fingerprint != provenance(options()).fingerprint
    text = provenance(options("text"))
    assert (text.space, text.fingerprint) == (
        model().manifest.space,
        model().manifest.towers["text"].fingerprint,
    )


def test_too_little_memory_is_told_before_a_row_is_read() -> None:
    with pytest.raises(ConfigError, match="MEMORY_LIMIT leaves a worker too little"):
        provenance(options(MEMORY_LIMIT="170Mi"))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://bucket/a/b c.jpg", ("bucket", "a/b c.jpg")),
        ("gs://bucket/a%20b#c?d.jpg", ("bucket", "a%20b#c?d.jpg")),
        ("file:///folder/a%20b.jpg", ("file:///folder/", "a b.jpg")),
        ("file:/folder/a.jpg", ("file:///folder/", "a.jpg")),
    ],
)
def test_a_uri_is_a_bucket_and_a_name(uri: str, expected: tuple[str, str]) -> None:
    assert split_uri(uri) == expected


@pytest.mark.parametrize("uri", ["", "a.jpg", "/a.jpg", "gs://", "gs://bucket", "gs://bucket/", "file:///"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(ApiError, match="This is no URL of a picture"):
        split_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///a%00b/c.jpg",
        "file:///a/b%00c.jpg",
        "file:///none/../../etc/passwd",
        f"file:///{'a' * 5000}/b.jpg",
        f"file:///tmp/{'b' * 5000}.jpg",
        "file://host/share/a.jpg",
        "gs://[a/b.jpg",
        "gs://a b/c.jpg",
        f"gs://bucket/{'x' * 2000}",
        "http://",
        "https://[::1",
        "http://user:password@:99999/",
    ],
)
def test_no_uri_ends_the_job(uri: str) -> None:
    (row,) = embed_rows([SourceRow(uri)], options())

    assert row.vector is None
    assert row.error
