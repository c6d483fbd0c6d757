"""The contract of Index, for every backend of the registry."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from clip_embeddings.index.factory import open_index
from clip_embeddings.index.postgres import PostgresIndex
from clip_embeddings.index.registry import BACKENDS
from clip_embeddings.index.sqlite import SqliteIndex
from clip_embeddings.index.types import EntryError, Filter, Index, prefix_end
from clip_embeddings.storage.types import NameRange
from tests.support.entries import DIMENSIONS, direction, entry
from tests.support.histories import History, check_history, histories
from tests.support.indexes import EMPTY_INDEX_URLS, Open
from tests.support.threads import run_threads


def test_every_backend_of_the_registry_is_tested_here() -> None:
    assert EMPTY_INDEX_URLS.keys() == {backend.scheme for backend in BACKENDS}


def names(index: Index, bucket: str = "photos", prefix: str = "") -> list[str]:
    return [name for name, *_ in index.generations(bucket, prefix)]


def query_names(
    index: Index,
    vector: np.ndarray,
    space: str = "s",
    k: int = 1000,
    min_score: float | None = None,
    **filters: Any,
) -> list[str]:
    result = index.query(vector, space, k, Filter(**filters), min_score=min_score)
    return [hit.entry.name for hit in result.hits]


NOT_AN_INDEX = [
    "",
    "photos.sqlite",
    "sqlite:///",
    "sqlite:///folder/",
    "sqlite://host/file",
    "sqlite:///file?mode=memory",
    "firestore://project-a",
    "firestore://project-a/a/b",
    "firestore://project-a/..",
    "firestore://UP/collection",
    "postgres://host/photos",
]
FORMS = (
    r"^use sqlite:///folder/file or firestore://project/collection or "
    r"postgresql://user@host/database\?table=name$"
)


@pytest.mark.parametrize("url", NOT_AN_INDEX)
def test_other_urls_are_refused_with_the_forms_that_are_allowed(url: str) -> None:
    with pytest.raises(ValueError, match=FORMS):
        open_index(url)


def test_an_entry_is_read_as_it_was_written(index: Index) -> None:
    odd = {"": "empty", "__name__": "é\0😀", "a.b`c": "x" * 5000}
    written = entry("ordner/ü '\"%_\0.jpg", 2**62 + 1, metadata=odd, size=2**40, content_type="")

    assert index.upsert([written]) == [True]

    read = index.get("photos", written.name)
    assert read == written
    assert read is not None
    assert read.vector.dtype == np.float32
    assert read.vector.tolist() == written.vector.tolist()
    assert read.updated.utcoffset() is not None


def test_hits_have_every_field_but_the_vector(index: Index) -> None:
    written = entry(metadata={"who": "me"})
    index.upsert([written])

    (hit,) = index.query(written.vector, "s", 10).hits

    assert hit.entry == written
    assert hit.entry.vector.shape == (0,)
    assert hit.score == pytest.approx(1, abs=1e-6)


def test_uris() -> None:
    assert entry("a/b.png").uri == "gs://photos/a/b.png"
    assert entry("a/b.png", bucket="file:///folder/").uri == "file:///folder/a/b.png"


def test_an_empty_index(index: Index) -> None:
    assert index.get("photos", "a") is None
    assert index.query(direction("q"), "s", 3).hits == []
    assert names(index) == []
    assert (index.count(), index.count("s")) == (0, 0)
    assert index.upsert([]) == []


def test_the_nearest_are_those_that_numpy_computes(index: Index) -> None:
    entries = [entry(f"{number}") for number in range(150)]
    index.upsert(entries)
    query = direction("q") * np.float32(7)

    hits = index.query(query, "s", 20).hits

    scores = np.array([e.vector for e in entries], np.float64) @ direction("q").astype(np.float64)
    best = np.argsort(-scores)[:20]
    assert [hit.entry.name for hit in hits] == [entries[position].name for position in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-6)


def test_a_query_returns_k_hits_or_as_many_as_there_are(index: Index) -> None:
    index.upsert([entry(name) for name in "abc"])

    assert [len(index.query(direction("q"), "s", k).hits) for k in (1, 2, 3, 4, 1000)] == [1, 2, 3, 3, 3]


def test_a_minimum_score(index: Index) -> None:
    index.upsert([entry(str(number)) for number in range(30)])
    all_hits = index.query(direction("q"), "s", 30).hits
    min_score = (all_hits[9].score + all_hits[10].score) / 2
    expected = [hit.entry.name for hit in all_hits[:10]]

    assert query_names(index, direction("q"), min_score=min_score) == expected
    assert query_names(index, direction("q"), min_score=min_score, k=4) == expected[:4]
    assert query_names(index, direction("q"), min_score=1) == []
    assert len(query_names(index, direction("q"), min_score=-1)) == 30


NAMES = [
    "a",
    "a%",
    "a_b",
    "aXb",
    "a/1",
    "a/2",
    "ä/1",
    "a\U0010ffff",
    "a\U0010ffff1",
    "b",
    "\ud7ff!",
    "\ue000",
]


@pytest.mark.parametrize(
    "prefix",
    ["", "a", "a%", "a_", "a/", "A", "ä", "a\U0010ffff", "\U0010ffff", "\ud7ff", "nothing", "a\ud800", "'"],
)
def test_prefixes_are_compared_by_character(index: Index, prefix: str) -> None:
    index.upsert([entry(name) for name in NAMES])

    expected = sorted(name for name in NAMES if name.startswith(prefix))
    assert names(index, prefix=prefix) == expected
    assert sorted(query_names(index, direction("q"), prefix=prefix)) == expected
    assert sorted(query_names(index, direction("q"), prefix=prefix, bucket="photos")) == expected


def test_ranges_of_names(index: Index) -> None:
    index.upsert([entry(name) for name in [*NAMES, "a\0", "a\x01"]])
    index.upsert([entry("a", bucket="photos2")])
    everything = sorted([*NAMES, "a\0", "a\x01"])

    for start, end in combinations(["", *everything, "a\U0010fffe", "\U0010ffff", None], 2):
        within = NameRange(str(start), end)
        expected = [name for name in everything if name in within]
        listed = [name for name, *_ in index.generations("photos", "", within)]
        assert listed == expected
        listed = [name for name, *_ in index.generations("photos", "a", within)]
        assert listed == [name for name in expected if name.startswith("a")]


def test_the_end_of_a_prefix() -> None:
    assert [prefix_end(prefix) for prefix in ("a", "a\U0010ffff", "\ud7ff")] == ["b", "b", "\ue000"]
    assert [prefix_end(prefix) for prefix in ("\U0010ffff", "")] == [None, None]


def test_buckets_are_separate(index: Index) -> None:
    below = entry("b", bucket="file:///folder/below/")
    index.upsert([below, entry("below/b", bucket="file:///folder/")])
    assert names(index, "file:///folder/") == ["below/b"]
    assert names(index, below.bucket) == ["b"]
    index.delete(below.bucket, "b", 1)
    index.delete("file:///folder/", "below/b", 1)

    index.upsert([entry("a"), entry("a", bucket="other"), entry("b", bucket="other")])
    index.delete("other", "a", 1)

    assert names(index, "photos") == ["a"]
    assert names(index, "other") == ["b"]
    assert query_names(index, direction("q"), bucket="photos") == ["a"]
    assert query_names(index, direction("q"), bucket="other") == ["b"]
    assert query_names(index, direction("q"), bucket="photos/") == []
    assert index.count() == 2


def test_spaces_are_separate_and_may_differ_in_dimensions(index: Index) -> None:
    index.upsert([entry("a"), entry("b", space="t"), entry("c", space="u", vector=direction("c", 3))])

    assert query_names(index, direction("q")) == ["a"]
    assert query_names(index, direction("q"), space="t") == ["b"]
    assert query_names(index, direction("q", 3), space="u") == ["c"]
    assert query_names(index, direction("q", 7), space="unknown") == []
    assert [index.count(space) for space in ("s", "t", "u", "unknown", None)] == [1, 1, 1, 0, 3]


def test_an_object_can_move_to_another_space(index: Index) -> None:
    index.upsert([entry("a"), entry("b")])
    assert query_names(index, direction("q"), bucket="photos") != []

    assert index.upsert([entry("a", space="t", fingerprint="g")]) == [True]

    assert query_names(index, direction("q")) == ["b"]
    assert query_names(index, direction("q"), space="t") == ["a"]
    assert [version[:3] for version in index.generations("photos")] == [("a", 1, "g"), ("b", 1, "f")]


def test_the_same_generation_can_be_written_again(index: Index) -> None:
    index.upsert([entry("a", 5)])
    query_names(index, direction("q"))

    assert index.upsert([entry("a", 5, vector=direction("better"), fingerprint="g")]) == [True]

    (hit,) = index.query(direction("better"), "s", 1).hits
    assert hit.entry.fingerprint == "g"
    assert hit.score == pytest.approx(1, abs=1e-6)


def test_an_older_generation_replaces_nothing(index: Index) -> None:
    index.upsert([entry("a", 5)])

    assert index.upsert([entry("a", 4), entry("b", 1)]) == [False, True]

    assert [version[:3] for version in index.generations("photos")] == [("a", 5, "f"), ("b", 1, "f")]


def test_one_batch_may_hold_an_object_several_times(index: Index) -> None:
    batch = [entry("a", 2), entry("a", 3), entry("a", 1), entry("a", 3, fingerprint="g"), entry("b", 1)]

    assert index.upsert(batch) == [True, True, False, True, True]

    assert [version[:3] for version in index.generations("photos")] == [("a", 3, "g"), ("b", 1, "f")]


def test_a_large_batch(index: Index) -> None:
    batch = [entry(f"{number:04}") for number in range(120)]

    assert index.upsert(batch) == [True] * 120

    assert names(index) == [e.name for e in batch]
    assert index.count("s") == 120


def test_a_newer_generation_is_not_removed(index: Index) -> None:
    index.upsert([entry("a", 5)])

    assert not index.delete("photos", "a", 4)

    assert query_names(index, direction("q")) == ["a"]


@pytest.mark.parametrize("generation", [5, 6])
def test_a_removed_object_is_gone(index: Index, generation: int) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])

    assert index.delete("photos", "a", generation)

    assert query_names(index, direction("q")) == ["b"]
    assert index.get("photos", "a") is None
    assert names(index) == ["b"]
    assert (index.count(), index.count("s")) == (1, 1)


def test_a_removed_object_returns_only_in_a_newer_generation(index: Index) -> None:
    assert index.delete("photos", "a", 5)

    assert index.upsert([entry("a", 4), entry("a", 5)]) == [False, False]
    assert index.count() == 0
    assert not index.delete("photos", "a", 4)
    assert index.delete("photos", "a", 5)
    assert index.upsert([entry("a", 6)]) == [True]
    assert query_names(index, direction("q")) == ["a"]
    assert not index.delete("photos", "a", 5)


def test_a_forgotten_object_returns_in_any_generation(index: Index) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])

    assert not index.delete("photos", "a", 4, forget=True)
    assert index.delete("photos", "a", 5, forget=True)

    assert names(index) == query_names(index, direction("q")) == ["b"]
    assert index.upsert([entry("a", 3)]) == [True]
    assert [version[:3] for version in index.generations("photos")] == [("a", 3, "f"), ("b", 5, "f")]


def test_an_expired_tombstone_has_no_effect(open_again: Open) -> None:
    index = open_again(tombstone_ttl=1e-6)
    index.upsert([entry("a", 5)])
    index.delete("photos", "a", 5)

    assert index.upsert([entry("a", 4)]) == [True]
    index.delete("photos", "a", 9)
    assert index.delete("photos", "a", 3)
    assert index.upsert([entry("a", 4)]) == [True]

    assert [version[:3] for version in index.generations("photos")] == [("a", 4, "f")]
    assert query_names(index, direction("q")) == ["a"]


INVALID_VECTORS = {
    "dimensions": (
        direction("x", DIMENSIONS + 1),
        "The space 's' has vectors of 16 dimensions; this one has 17.",
    ),
    "shape": (np.ones((1, DIMENSIONS)), "A vector must be a list of numbers."),
    "empty": (np.ones(0), "A vector must be a list of numbers."),
    "nan": (np.full(DIMENSIONS, np.nan), "A vector must be finite and must not be zero."),
    "infinite": (np.full(DIMENSIONS, np.inf), "A vector must be finite and must not be zero."),
    "zero": (np.zeros(DIMENSIONS), "A vector must be finite and must not be zero."),
}


@pytest.mark.parametrize(("vector", "sentence"), INVALID_VECTORS.values(), ids=INVALID_VECTORS)
def test_invalid_vectors_are_refused_with_a_sentence(index: Index, vector: np.ndarray, sentence: str) -> None:
    index.upsert([entry("a")])

    with pytest.raises(EntryError) as upsert_error:
        index.upsert([entry("b"), entry("c", vector=vector)])
    with pytest.raises(EntryError) as query_error:
        index.query(vector, "s", 1)

    assert str(upsert_error.value) == str(query_error.value) == sentence
    assert names(index) == ["a"]


def test_an_empty_space_keeps_its_dimensions(open_again: Open) -> None:
    open_again().upsert([entry("a")])
    open_again().delete("photos", "a", 1)

    with pytest.raises(EntryError, match="has vectors of 16 dimensions; this one has 3"):
        open_again().upsert([entry("b", vector=direction("b", 3))])


@pytest.mark.parametrize("generation", [-1, 2**63])
def test_invalid_generations_are_refused(index: Index, generation: int) -> None:
    with pytest.raises(EntryError, match="generation must be"):
        index.upsert([entry("a", generation)])
    with pytest.raises(EntryError, match="generation must be"):
        index.delete("photos", "a", generation)


def test_names_that_are_not_unicode_are_never_in_the_index(index: Index) -> None:
    index.upsert([entry("a")])

    with pytest.raises(EntryError, match="not text in Unicode"):
        index.upsert([entry("b"), entry("a\ud800")])
    assert index.get("photos", "a\ud800") is None
    assert index.delete("photos", "a\ud800", 1)
    assert list(index.generations("\ud800")) == []
    assert index.query(direction("q"), "\ud800", 1).hits == []
    assert index.count("\ud800") == 0
    assert names(index) == ["a"]


def test_vectors_are_normalized(index: Index) -> None:
    index.upsert(
        [entry("a", vector=direction("a") * 30), entry("b", vector=direction("b").astype(np.float64))]
    )

    written = index.get("photos", "a")
    assert written is not None
    assert written.vector == pytest.approx(direction("a"), abs=1e-6)
    assert query_names(index, direction("a"), k=1, min_score=0.999) == ["a"]
    assert query_names(index, direction("b"), k=1, min_score=0.999) == ["b"]


def test_listings_longer_than_a_page(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS:
        monkeypatch.setattr(import_module(backend.module), "PAGE_SIZE", 3)
    all_names = [f"{number:02}" for number in range(12)]
    index.upsert([entry(name) for name in all_names])
    for name in ("02", "03", "04", "05", "06"):
        index.delete("photos", name, 1)
    remaining = all_names[:2] + all_names[7:]

    assert names(index) == remaining
    assert names(index, prefix="0") == [name for name in remaining if name < "10"]
    assert sorted(query_names(index, direction("q"))) == remaining


def test_every_entry_is_listed_with_its_vector(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS:
        monkeypatch.setattr(import_module(backend.module), "PAGE_SIZE", 3)
    written = [entry(f"{number:02}", bucket=bucket) for bucket in ("a", "b\0") for number in range(7)]
    other = entry("other", space="t\0%", vector=direction("other", 3))
    index.upsert([*written, other])
    index.delete("a", "03", 1)
    written = [each for each in written if each.uri != "gs://a/03"]

    def listed(space: str | None) -> dict[str, list[float]]:
        return {each.uri: each.vector.tolist() for each in index.entries(space)}

    expected = {each.uri: each.vector.tolist() for each in written}
    assert listed("s") == expected
    assert listed("t\0%") == {other.uri: other.vector.tolist()}
    assert listed(None) == expected | listed("t\0%")
    assert listed("unknown") == listed("\ud800") == {}
    assert {each.uri: each for each in index.entries("s")} == {each.uri: each for each in written}


def test_writers_see_the_writes_of_others(open_again: Open) -> None:
    first, second = open_again(), open_again()
    first.upsert([entry("a"), entry("b")])
    assert sorted(query_names(second, direction("q"))) == ["a", "b"]

    second.upsert([entry("c"), entry("a", 2)])
    second.delete("photos", "b", 1)

    assert sorted(query_names(first, direction("q"))) == ["a", "c"]
    assert query_names(first, direction("a 2"), k=1, min_score=0.999) == ["a"]
    assert first.get("photos", "b") is None


def test_of_concurrent_writes_the_newest_generation_stays(open_again: Open) -> None:
    writers = [open_again() for _ in range(4)]

    def write(number: int, index: Index) -> None:
        for round_ in range(4):
            index.upsert([entry("a", 10 * round_ + number), entry("b", 10 * round_ + number)])
            index.delete("photos", "b", 10 * round_ + number)

    run_threads([partial(write, number, index) for number, index in enumerate(writers)])

    assert [version[:3] for version in open_again().generations("photos")] == [("a", 33, "f")]
    assert query_names(writers[0], direction("a 33"), k=2, min_score=0.999) == ["a"]


def test_any_order_of_changes_ends_in_the_same_index(index: Index) -> None:
    # A server is slower than a file, and an emulator much slower.
    check_histories(index, {SqliteIndex: 200, PostgresIndex: 60}.get(type(index), 20))


@pytest.mark.full
def test_any_of_five_hundred_orders_of_changes_ends_in_the_same_index(index: Index) -> None:
    check_histories(index, 500)


def check_histories(index: Index, count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(history=histories())
    def check(history: History) -> None:
        check_history(index, history)

    check()
