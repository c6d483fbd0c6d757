"""The contract of Index, for every backend: filters, labels, samples and reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

from clip_embeddings.index import firestore, postgres_search, sqlite_search
from clip_embeddings.index.firestore import FirestoreIndex
from clip_embeddings.index.types import (
    MAX_PART_BYTES,
    Entry,
    EntryError,
    Filter,
    Index,
    LabelChange,
)
from tests.support.entries import UPDATED, direction, entry
from tests.support.indexes import Open
from tests.support.threads import run_threads

# Labels that a store could confuse with its own syntax, or with one another.
ODD = ("cat", 'a "cat": 1', '", "cat', "ca", "%", "é\0\x01", "", "it's {dog}", "[]", "a,b", "NULL")
TYPES = (
    "image/png",
    "IMAGE/PNG",
    "image/jpeg",
    "image/",
    "imagex/png",
    "text/plain",
    "",
    "ımage/png",
    "image/%",
)
DAY = timedelta(days=1)


def filtered_entries(count: int) -> list[Entry]:
    """Entries of two buckets, with names, times, labels and types that take turns."""
    return [
        entry(
            f"{'ab'[number % 2]}/{number:03}",
            bucket=("photos", "other")[number % 3 == 0],
            updated=UPDATED.replace(microsecond=0) + timedelta(microseconds=250_000 * number),
            content_type=TYPES[number % len(TYPES)],
            labels={ODD[(number + i) % len(ODD)]: 0.5 + i / 8 for i in range(number % 4)},
            label_set="set" if number % 4 else "",
        )
        for number in range(count)
    ]


def names(index: Index, where: Filter, k: int = 1000, **options: Any) -> list[str]:
    return [hit.entry.name for hit in index.query(direction("q"), "s", k, where, **options).hits]


def nearest(entries: list[Entry], where: Filter) -> list[str]:
    """The names of the entries that match, nearest to `q` first."""
    matching = [each for each in entries if where.matches(each)]
    return [each.name for each in sorted(matching, key=lambda each: -float(each.vector @ direction("q")))]


FILTERS: list[dict[str, Any]] = [
    {"updated_from": UPDATED + timedelta(seconds=4)},
    {"updated_before": UPDATED.replace(microsecond=0) + timedelta(seconds=4)},
    {
        "updated_from": UPDATED.replace(microsecond=500_000),
        "updated_before": (UPDATED + timedelta(seconds=2)).astimezone(timezone(timedelta(hours=-11))),
    },
    {"updated_from": UPDATED + DAY},
    *({"label": label} for label in ODD),
    {"label": "dog"},
    {"label": "\ud800"},
    *(
        {"content_type": type_}
        for type_ in (*TYPES[:4], "image/*", "Image/*", "text/*", "video/*", "/*", "*", "")
    ),
    {"bucket": "photos", "prefix": "a/", "label": "cat", "content_type": "image/*"},
    {"bucket": "other", "updated_from": UPDATED + timedelta(seconds=1), "label": "ca"},
    {"bucket": "nowhere", "label": "cat"},
]


@pytest.mark.parametrize("few", [True, False], ids=["few", "many"])
def test_every_filter_yields_the_nearest_that_match(
    index: Index, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    if few and isinstance(index, FirestoreIndex):
        pytest.skip("Firestore takes one way for all.")
    # With few matches, the ways that are meant for large indexes are taken in this small one as well.
    monkeypatch.setattr(sqlite_search, "MOST_LOOKED_AT", 3 if few else 2000)
    monkeypatch.setattr(postgres_search, "EXACT_ROWS", 2000 if few else 0)
    entries = filtered_entries(60)
    index.upsert(entries)

    # An emulator is slow.
    ks = (7,) if isinstance(index, FirestoreIndex) else (1, 7, 1000)
    for filters, k in product(FILTERS, ks):
        where = Filter(**filters)
        result = index.query(direction("q"), "s", k, where)
        expected = nearest(entries, where) if filters.get("label") != "\ud800" else []
        assert ([hit.entry.name for hit in result.hits], filters) == (expected[:k], filters)
        assert result.is_complete
    # Without a filter they are all there, and the lowest score counts beside one.
    assert len(names(index, Filter())) == 60
    where = Filter(label="cat")
    cats = index.query(direction("q"), "s", 1000, where).hits
    assert names(index, where, min_score=cats[3].score - 1e-6) == [hit.entry.name for hit in cats[:4]]


@pytest.mark.parametrize("labeled", [5, pytest.param(40, marks=pytest.mark.full)])
def test_a_thousand_results_of_more_that_match(index: Index, labeled: int) -> None:
    count = 1200
    batch = [entry(f"{number:04}", label_set="x") for number in range(count)]
    batch = [
        replace(each, labels={"cat": 0.9}) if number % labeled == 0 else each
        for number, each in enumerate(batch)
    ]
    index.upsert(batch)
    types = index.query(direction("q"), "s", 1000, Filter(content_type="image/*"))
    result = index.query(direction("q"), "s", 1000, Filter(label="cat"))

    assert ([hit.entry.name for hit in types.hits], types.is_complete) == (
        nearest(batch, Filter())[:1000],
        True,
    )
    expected = nearest(batch, Filter(label="cat"))
    if isinstance(index, FirestoreIndex):
        # Only the nearest 1,000 of all were looked at.
        of_nearest = set(nearest(batch, Filter())[:1000])
        assert [hit.entry.name for hit in result.hits] == [name for name in expected if name in of_nearest]
        assert not result.is_complete
        few = index.query(direction("q"), "s", 5, Filter(label="cat"))
        assert (len(few.hits), few.is_complete) == (5, True)
    else:
        assert ([hit.entry.name for hit in result.hits], result.is_complete) == (expected, True)


def test_labels_are_read_as_they_were_written(index: Index) -> None:
    labels = {label: 1 / (number + 3) for number, label in enumerate(ODD)}
    written = entry(labels=labels, label_set="0\0f")
    index.upsert([written, entry("b")])

    read = index.get("photos", "a")
    (hit,) = index.query(written.vector, "s", 1).hits
    assert read == hit.entry == written
    assert read is not None
    assert list(read.labels.items()) == list(labels.items())
    assert {each.name: each for each in index.entries()}["a"] == written
    assert {version.name: version.label_set for version in index.generations("photos")} == {
        "a": "0\0f",
        "b": "",
    }
    assert index.upsert([entry("a", 2)]) == [True]
    assert names(index, Filter(label="cat")) == []


def test_probabilities_of_numpy_are_numbers(index: Index) -> None:
    index.upsert([entry(labels={"cat": np.float32(0.25)})])

    read = index.get("photos", "a")
    assert read is not None
    assert dict(read.labels) == {"cat": 0.25}


def test_types_and_labels_as_long_as_uploaders_and_lists_have_them(index: Index) -> None:
    # Random, because PostgreSQL compresses keys that repeat themselves.
    random = np.random.default_rng(1)
    long = "image/" + "".join(map(chr, random.integers(ord("a"), ord("z") + 1, 20_000)))
    label = "".join(map(chr, random.integers(0x10000, 0x10FFFF, 256)))
    others = [long[:-1], long[:256], long[:255]]
    assert all(index.upsert([entry(str(n), content_type=type_) for n, type_ in enumerate([long, *others])]))
    index.upsert([entry("labeled", labels={label: 0.5})])

    assert names(index, Filter(content_type=long)) == ["0"]
    assert [names(index, Filter(content_type=type_)) for type_ in others] == [["1"], ["2"], ["3"]]
    assert names(index, Filter(label=label)) == ["labeled"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"\ud800": 0.5}, "not text in Unicode"),
        ({"cat": float("nan")}, "must be finite"),
        ({"x" * 257: 0.5}, "more than 256 characters"),
    ],
)
def test_labels_that_no_index_can_hold_are_refused(
    index: Index, labels: dict[str, float], sentence: str
) -> None:
    index.upsert([entry("b")])
    with pytest.raises(EntryError, match=sentence):
        index.upsert([entry(), entry("b", labels=labels)])
    with pytest.raises(EntryError, match=sentence):
        index.set_labels(
            [LabelChange("photos", "b", 1, {"dog": 1}, ""), LabelChange("photos", "b", 1, labels, "")]
        )
    assert names(index, Filter(label="dog")) == []


def test_many_entries_are_read_at_once(index: Index) -> None:
    names_ = ["a", "é\0/1", "gone", "missing", "\ud800", "a"]
    index.upsert([entry(name, 3, labels={"cat": 0.5}) for name in names_[:3]])
    index.upsert([entry("missing", bucket="other")])
    index.delete("photos", "gone", 3)

    entries = index.get_many("photos", names_)

    assert entries == [index.get("photos", name) for name in names_]
    assert [each and each.name for each in entries] == ["a", "é\0/1", None, None, None, "a"]
    assert {each.vector.shape for each in entries if each} == {(0,)}
    assert index.get_many("photos", []) == []
    assert index.get_many("\ud800", ["a"]) == [None]


def test_labels_change_and_nothing_else(open_again: Open) -> None:
    index, other = open_again(), open_again()
    before = entry("a", 5, labels={"old": 0.9}, label_set="1", metadata={"who": "me"})
    index.upsert([before, entry("b", 5), entry("gone", 5)])
    index.delete("photos", "gone", 5)
    assert names(other, Filter(label="old")) == ["a"]

    changes = [
        LabelChange("photos", "a", 5, {"cat": 0.75, "pet": 0.5}, "2"),
        LabelChange("photos", "b", 4, {"cat": 1.0}, "2"),
        LabelChange("photos", "gone", 5, {"cat": 1.0}, "2"),
        LabelChange("photos", "missing", 5, {"cat": 1.0}, "2"),
        LabelChange("photos", "\ud800", 5, {"cat": 1.0}, "2"),
        LabelChange("other", "a", 5, {"cat": 1.0}, "2"),
    ]
    assert index.set_labels(changes) == [True, False, False, False, False, False]
    assert index.set_labels([]) == []

    read = index.get("photos", "a")
    assert read == replace(before, labels={"cat": 0.75, "pet": 0.5}, label_set="2")
    assert read is not None
    assert read.vector.tolist() == before.vector.tolist()
    assert names(other, Filter(label="cat")) == ["a"]
    assert names(other, Filter(label="old")) == []
    assert index.get("photos", "b") == entry("b", 5)
    assert index.get("photos", "gone") is None
    assert index.set_labels([LabelChange("photos", "a", 5, {}, "")]) == [True]
    assert (index.count(), names(index, Filter(label="cat"))) == (2, [])


def test_many_labels_change_at_once(index: Index) -> None:
    index.upsert([entry(f"{number:03}") for number in range(120)])
    changes = [LabelChange("photos", f"{number:03}", 1, {"cat": 0.5}, "x") for number in range(119, -1, -1)]

    run_threads([partial(index.set_labels, changes), partial(index.set_labels, changes[::-1])])

    assert len(names(index, Filter(label="cat"))) == 120


def test_hits_have_vectors_if_that_is_asked(index: Index) -> None:
    entries = filtered_entries(12)
    index.upsert(entries)
    vectors = {each.name: each.vector.tolist() for each in entries}

    for where in (Filter(), Filter(bucket="photos"), Filter(content_type="image/*")):
        hits = index.query(direction("q"), "s", 5, where, with_vectors=True).hits
        assert {hit.entry.name: hit.entry.vector.tolist() for hit in hits} == {
            hit.entry.name: vectors[hit.entry.name] for hit in hits
        }
        assert hits
        assert {hit.entry.vector.shape for hit in index.query(direction("q"), "s", 5, where).hits} == {(0,)}


def test_a_sample_is_chosen_at_random(open_again: Open) -> None:
    index = open_again()
    assert index.sample("s", 10) == []
    entries = [entry(f"{number:03}", bucket=("a", "b")[number % 5 == 0]) for number in range(100)]
    index.upsert([*entries, *(entry(f"t{number}", space="t\0") for number in range(30))])
    index.delete("a", "001", 1)
    vectors = {each.uri: each.vector.tolist() for each in entries if each.uri != "gs://a/001"}

    samples = [index.sample("s", 20) for _ in range(20)]

    assert {len({each.uri for each in sample}) for sample in samples} == {20}
    for sample in samples:
        for each in sample:
            assert each.vector.tolist() == vectors[each.uri]
    # Any entry is missing in 20 samples of 20 of 99 once in a hundred times.
    assert len({each.uri for sample in samples for each in sample}) > 80
    assert {each.uri for each in index.sample("s", 5000)} == vectors.keys()
    assert {each.bucket for each in index.sample("s", 20, bucket="b")} == {"b"}
    assert len(index.sample("s", 20, bucket="b")) == 20
    assert len(index.sample("s", 21, bucket="b")) == 20
    assert index.sample("s", 5, bucket="\ud800") == index.sample("unknown", 5) == []
    assert {each.space for each in index.sample("t\0", 50)} == {"t\0"}


def test_a_sample_of_few_among_many(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_search, "DRAWS", 1)
    index.upsert([entry(f"{number:03}", bucket="b" if number < 5 else "a") for number in range(100)])

    assert {each.name for each in index.sample("s", 4, bucket="b")} < {f"00{number}" for number in range(5)}
    assert len(index.sample("s", 5, bucket="b")) == 5


def test_a_report_replaces_the_one_of_its_name(open_again: Open) -> None:
    index, other = open_again(), open_again()
    assert index.read_report("twins", 0) is None

    largest = bytes(range(256)) * (MAX_PART_BYTES // 256)
    index.write_report("twins", [b"0", largest, b"", b"3"])
    other.write_report("\0", [b"another"])

    assert [other.read_report("twins", part) for part in range(5)] == [b"0", largest, b"", b"3", None]
    assert index.read_report("\0", 0) == b"another"
    assert (index.count(), list(index.generations("photos")), list(index.entries())) == (0, [], [])

    other.write_report("twins", [b"new", b"1"])
    assert [index.read_report("twins", part) for part in range(4)] == [b"new", b"1", None, None]
    index.write_report("twins", [])
    assert other.read_report("twins", 0) is None


def test_an_index_of_firestore_asks_for_no_more_than_it_gives(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firestore filters names itself, everything else among the nearest that it gives."""
    if not isinstance(index, FirestoreIndex):
        pytest.skip("It is Firestore that gives a thousand entries for one query.")
    monkeypatch.setattr(firestore, "MAX_RESULTS", 10)
    index.upsert([entry(f"{'ab'[number < 5]}/{number}", labels={"cat": 1.0}) for number in range(20)])

    for where, hits, is_complete in (
        (Filter(label="cat"), 10, False),
        (Filter(label="cat", prefix="b/"), 5, True),
        (Filter(label="dog", prefix="b/"), 0, True),
        (Filter(label="dog"), 0, False),
        (Filter(prefix="a/"), 15, True),
    ):
        result = index.query(direction("q"), "s", 15, where)
        assert (len(result.hits), result.is_complete) == (hits, is_complete)
    assert index.query(direction("q"), "s", 10, Filter(label="cat")).is_complete
