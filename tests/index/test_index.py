"""What every index promises, whatever it is made of."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_embeddings.index import firestore, sqlite
from clip_embeddings.index.factory import open_index
from clip_embeddings.index.types import EntryError, Index, prefix_end
from tests.support.entries import DIMENSIONS, direction, entry

# Opens the index of a test once more, as another process would.
Open = Callable[..., Any]


@pytest.fixture(params=["sqlite", "firestore"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    url = f"sqlite://{tmp_path}/index/photos.sqlite"
    if request.param == "firestore":
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue("firestore"))
        url = f"firestore://photos-test/t{uuid.uuid4().hex}"
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(open_index(url, **options)))


@pytest.fixture
def index(opened: Open) -> Index:
    found: Index = opened()
    return found


def names(index: Index, bucket: str = "photos", prefix: str = "") -> list[str]:
    return [name for name, _, _ in index.generations(bucket, prefix)]


def found(index: Index, vector: np.ndarray, space: str = "s", k: int = 1000, **filters: Any) -> list[str]:
    return [hit.entry.name for hit in index.query(vector, space, k, **filters)]


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


@pytest.mark.parametrize("url", NOT_AN_INDEX)
def test_other_urls_are_refused_with_what_to_use(url: str) -> None:
    with pytest.raises(ValueError, match=r"use sqlite:///folder/file or firestore://project/collection"):
        open_index(url)


def test_what_was_written_is_read(index: Index) -> None:
    odd = {"": "empty", "__name__": "é\0😀", "a.b`c": "x" * 5000}
    written = entry("ordner/ü '\"%_\0.jpg", 2**62 + 1, metadata=odd, size=2**40, content_type="")

    assert index.upsert([written]) == [True]

    read = index.get("photos", written.name)
    assert read == written
    assert read is not None
    assert read.vector.dtype == np.float32
    assert read.vector.tolist() == written.vector.tolist()
    assert read.updated.utcoffset() is not None


def test_a_query_tells_everything_but_the_vector(index: Index) -> None:
    written = entry(metadata={"who": "me"})
    index.upsert([written])

    (hit,) = index.query(written.vector, "s", 10)

    assert hit.entry == written
    assert hit.entry.vector.shape == (0,)
    assert hit.score == pytest.approx(1, abs=1e-6)


def test_uris() -> None:
    assert entry("a/b.png").uri == "gs://photos/a/b.png"
    assert entry("a/b.png", bucket="file:///folder/").uri == "file:///folder/a/b.png"


def test_an_empty_index(index: Index) -> None:
    assert index.get("photos", "a") is None
    assert index.query(direction("q"), "s", 3) == []
    assert names(index) == []
    assert (index.count(), index.count("s")) == (0, 0)
    assert index.upsert([]) == []


def test_the_nearest_are_numpys(index: Index) -> None:
    entries = [entry(f"{number}") for number in range(150)]
    index.upsert(entries)
    query = direction("q") * np.float32(7)

    hits = index.query(query, "s", 20)

    scores = np.array([e.vector for e in entries], np.float64) @ direction("q").astype(np.float64)
    best = np.argsort(-scores)[:20]
    assert [hit.entry.name for hit in hits] == [entries[place].name for place in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-6)


def test_no_more_than_asked_for_and_no_more_than_there_are(index: Index) -> None:
    index.upsert([entry(name) for name in "abc"])

    assert [len(index.query(direction("q"), "s", k)) for k in (1, 2, 3, 4, 1000)] == [1, 2, 3, 3, 3]


def test_only_scores_from_the_least_wanted(index: Index) -> None:
    index.upsert([entry(str(number)) for number in range(30)])
    every = index.query(direction("q"), "s", 30)
    least = (every[9].score + every[10].score) / 2

    assert found(index, direction("q"), min_score=least) == [hit.entry.name for hit in every[:10]]
    assert found(index, direction("q"), min_score=least, k=4) == [hit.entry.name for hit in every[:4]]
    assert found(index, direction("q"), min_score=1) == []
    assert len(found(index, direction("q"), min_score=-1)) == 30


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
def test_prefixes_are_the_first_characters_and_nothing_else(index: Index, prefix: str) -> None:
    index.upsert([entry(name) for name in NAMES])

    expected = sorted(name for name in NAMES if name.startswith(prefix))
    assert names(index, prefix=prefix) == expected
    assert sorted(found(index, direction("q"), prefix=prefix)) == expected
    assert sorted(found(index, direction("q"), prefix=prefix, bucket="photos")) == expected


def test_the_string_after_a_prefix() -> None:
    assert [prefix_end(prefix) for prefix in ("a", "a\U0010ffff", "\ud7ff")] == ["b", "b", "\ue000"]
    assert [prefix_end(prefix) for prefix in ("\U0010ffff", "")] == [None, None]


def test_buckets_are_apart(index: Index) -> None:
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
    assert found(index, direction("q"), bucket="photos") == ["a"]
    assert found(index, direction("q"), bucket="other") == ["b"]
    assert found(index, direction("q"), bucket="photos/") == []
    assert index.count() == 2


def test_spaces_are_apart_and_may_differ_in_size(index: Index) -> None:
    index.upsert([entry("a"), entry("b", space="t"), entry("c", space="u", vector=direction("c", 3))])

    assert found(index, direction("q")) == ["a"]
    assert found(index, direction("q"), space="t") == ["b"]
    assert found(index, direction("q", 3), space="u") == ["c"]
    assert found(index, direction("q", 7), space="nobody's") == []
    assert [index.count(space) for space in ("s", "t", "u", "nobody's", None)] == [1, 1, 1, 0, 3]


def test_an_object_moves_to_another_space(index: Index) -> None:
    index.upsert([entry("a"), entry("b")])
    assert found(index, direction("q"), bucket="photos") != []

    assert index.upsert([entry("a", space="t", fingerprint="g")]) == [True]

    assert found(index, direction("q")) == ["b"]
    assert found(index, direction("q"), space="t") == ["a"]
    assert list(index.generations("photos")) == [("a", 1, "g"), ("b", 1, "f")]


def test_the_same_generation_is_written_again(index: Index) -> None:
    index.upsert([entry("a", 5)])
    found(index, direction("q"))

    assert index.upsert([entry("a", 5, vector=direction("better"), fingerprint="g")]) == [True]

    (hit,) = index.query(direction("better"), "s", 1)
    assert (hit.entry.fingerprint, hit.score) == ("g", pytest.approx(1, abs=1e-6))


def test_what_is_older_replaces_nothing(index: Index) -> None:
    index.upsert([entry("a", 5)])

    assert index.upsert([entry("a", 4), entry("b", 1)]) == [False, True]

    assert list(index.generations("photos")) == [("a", 5, "f"), ("b", 1, "f")]


def test_one_batch_may_hold_an_object_several_times(index: Index) -> None:
    batch = [entry("a", 2), entry("a", 3), entry("a", 1), entry("a", 3, fingerprint="g"), entry("b", 1)]

    assert index.upsert(batch) == [True, True, False, True, True]

    assert list(index.generations("photos")) == [("a", 3, "g"), ("b", 1, "f")]


def test_a_batch_of_many(index: Index) -> None:
    batch = [entry(f"{number:04}") for number in range(120)]

    assert index.upsert(batch) == [True] * 120

    assert names(index) == [e.name for e in batch]
    assert index.count("s") == 120


def test_what_is_newer_is_not_removed(index: Index) -> None:
    index.upsert([entry("a", 5)])

    assert not index.delete("photos", "a", 4)

    assert found(index, direction("q")) == ["a"]


@pytest.mark.parametrize("generation", [5, 6])
def test_a_removed_object_is_gone(index: Index, generation: int) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])

    assert index.delete("photos", "a", generation)

    assert found(index, direction("q")) == ["b"]
    assert index.get("photos", "a") is None
    assert names(index) == ["b"]
    assert (index.count(), index.count("s")) == (1, 1)


def test_a_removed_object_comes_back_only_newer(index: Index) -> None:
    assert index.delete("photos", "a", 5)

    assert index.upsert([entry("a", 4), entry("a", 5)]) == [False, False]
    assert index.count() == 0
    assert not index.delete("photos", "a", 4)
    assert index.delete("photos", "a", 5)
    assert index.upsert([entry("a", 6)]) == [True]
    assert found(index, direction("q")) == ["a"]
    assert not index.delete("photos", "a", 5)


def test_a_forgotten_object_comes_back_as_it_was(index: Index) -> None:
    index.upsert([entry("a", 5), entry("b", 5)])

    assert not index.delete("photos", "a", 4, forget=True)
    assert index.delete("photos", "a", 5, forget=True)

    assert names(index) == found(index, direction("q")) == ["b"]
    assert index.upsert([entry("a", 3)]) == [True]
    assert list(index.generations("photos")) == [("a", 3, "f"), ("b", 5, "f")]


def test_an_expired_tombstone_holds_nothing_up(opened: Open) -> None:
    index = opened(tombstone_ttl=1e-6)
    index.upsert([entry("a", 5)])
    index.delete("photos", "a", 5)

    assert index.upsert([entry("a", 4)]) == [True]
    index.delete("photos", "a", 9)
    assert index.delete("photos", "a", 3)
    assert index.upsert([entry("a", 4)]) == [True]

    assert list(index.generations("photos")) == [("a", 4, "f")]
    assert found(index, direction("q")) == ["a"]


WRONG = {
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


@pytest.mark.parametrize(("vector", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_vectors_are_refused_with_a_sentence(index: Index, vector: np.ndarray, sentence: str) -> None:
    index.upsert([entry("a")])

    with pytest.raises(EntryError) as written:
        index.upsert([entry("b"), entry("c", vector=vector)])
    with pytest.raises(EntryError) as asked:
        index.query(vector, "s", 1)

    assert str(written.value) == str(asked.value) == sentence
    assert names(index) == ["a"]


def test_a_space_keeps_its_dimensions_when_all_have_left(opened: Open) -> None:
    opened().upsert([entry("a")])
    opened().delete("photos", "a", 1)

    with pytest.raises(EntryError, match="has vectors of 16 dimensions; this one has 3"):
        opened().upsert([entry("b", vector=direction("b", 3))])


@pytest.mark.parametrize("generation", [-1, 2**63])
def test_impossible_generations_are_refused(index: Index, generation: int) -> None:
    with pytest.raises(EntryError, match="generation must be"):
        index.upsert([entry("a", generation)])
    with pytest.raises(EntryError, match="generation must be"):
        index.delete("photos", "a", generation)


def test_names_that_are_not_unicode_are_nowhere(index: Index) -> None:
    index.upsert([entry("a")])

    with pytest.raises(EntryError, match="not text in Unicode"):
        index.upsert([entry("b"), entry("a\ud800")])
    assert index.get("photos", "a\ud800") is None
    assert index.delete("photos", "a\ud800", 1)
    assert list(index.generations("\ud800")) == []
    assert index.query(direction("q"), "\ud800", 1) == []
    assert index.count("\ud800") == 0
    assert names(index) == ["a"]


def test_vectors_of_other_lengths_are_brought_to_length_one(index: Index) -> None:
    index.upsert(
        [entry("a", vector=direction("a") * 30), entry("b", vector=direction("b").astype(np.float64))]
    )

    kept = index.get("photos", "a")
    assert kept is not None
    assert kept.vector == pytest.approx(direction("a"), abs=1e-6)
    assert found(index, direction("a"), k=1, min_score=0.999) == ["a"]
    assert found(index, direction("b"), k=1, min_score=0.999) == ["b"]


def test_lists_longer_than_a_page(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PAGE", 3)
    monkeypatch.setattr(firestore, "PAGE", 3)
    every = [f"{number:02}" for number in range(12)]
    index.upsert([entry(name) for name in every])
    for name in ("02", "03", "04", "05", "06"):
        index.delete("photos", name, 1)
    left = every[:2] + every[7:]

    assert names(index) == left
    assert names(index, prefix="0") == [name for name in left if name < "10"]
    assert sorted(found(index, direction("q"))) == left


def test_writers_see_each_others_writes(opened: Open) -> None:
    one, two = opened(), opened()
    one.upsert([entry("a"), entry("b")])
    assert sorted(found(two, direction("q"))) == ["a", "b"]

    two.upsert([entry("c"), entry("a", 2)])
    two.delete("photos", "b", 1)

    assert sorted(found(one, direction("q"))) == ["a", "c"]
    assert found(one, direction("a 2"), k=1, min_score=0.999) == ["a"]
    assert one.get("photos", "b") is None


def test_of_many_at_once_the_newest_stays(opened: Open) -> None:
    writers = [opened() for _ in range(4)]
    errors: list[BaseException] = []

    def write(number: int, index: Index) -> None:
        try:
            for round_ in range(4):
                index.upsert([entry("a", 10 * round_ + number), entry("b", 10 * round_ + number)])
                index.delete("photos", "b", 10 * round_ + number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=each) for each in enumerate(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert list(opened().generations("photos")) == [("a", 33, "f")]
    assert found(writers[0], direction("a 33"), k=2, min_score=0.999) == ["a"]


# What happened to one object: its generations, each maybe removed after it was written.
STORIES = st.lists(st.booleans(), min_size=1, max_size=4)


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[str, str, int]]]:
    """(the generation of each object that is left, what is delivered: each change one to three times)."""
    left, changes = {}, []
    for name in "abc"[: draw(st.integers(1, 3))]:
        for generation, removed in enumerate(draw(STORIES), 1):
            changes.append(("upsert", name, generation))
            left[name] = generation
            if removed:
                changes.append(("delete", name, generation))
                del left[name]
    deliveries = [change for change in changes for _ in range(draw(st.integers(1, 3)))]
    return left, draw(st.permutations(deliveries))


def check_history(index: Index, left: dict[str, int], deliveries: list[tuple[str, str, int]]) -> None:
    folder = f"{uuid.uuid4().hex}/"
    for kind, name, generation in deliveries:
        if kind == "upsert":
            index.upsert([entry(folder + name, generation)])
        else:
            index.delete("photos", folder + name, generation)

    expected = {folder + name: generation for name, generation in left.items()}
    assert {name: generation for name, generation, _ in index.generations("photos", folder)} == expected
    hits = index.query(direction("q"), "s", 10, prefix=folder)
    assert {hit.entry.name: hit.entry.generation for hit in hits} == expected
    for hit in hits:
        own = direction(f"{hit.entry.name} {hit.entry.generation}")
        assert hit.score == pytest.approx(float(direction("q") @ own), abs=1e-5)


@pytest.mark.parametrize("opened", ["sqlite"], indirect=True)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_any_order_of_changes_ends_the_same_in_sqlite(index: Index, history: Any) -> None:
    check_history(index, *history)


@pytest.mark.parametrize("opened", ["firestore"], indirect=True)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_any_order_of_changes_ends_the_same_in_firestore(index: Index, history: Any) -> None:
    check_history(index, *history)
