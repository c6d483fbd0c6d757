"""What search can do, through a real server, on an index of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.index.registry import BACKENDS
from clip_embeddings.index.types import LabelChange
from tests.support.albums import Album, emoji, new_album
from tests.support.indexes import EMPTY_INDEX_URLS, close_index
from tests.support.serving import Server, serving

START = datetime(2026, 3, 1, tzinfo=UTC)
CAKE, CAT = "emoji/birthday cake.png", "emoji/cat face.png"


@pytest.fixture(params=[backend.scheme for backend in BACKENDS])
def album(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Album]:
    """Emoji of as many days; every third one is labeled, every fourth one a JPEG by its declared type."""
    made = new_album(tmp_path, EMPTY_INDEX_URLS[request.param](request))
    made.add(emoji(120))
    labels, entries = [], []
    for day, entry in enumerate(sorted(made.index.entries(), key=lambda entry: entry.name)):
        declared = "image/jpeg" if day % 4 == 0 else entry.content_type
        updated = START + timedelta(days=day, hours=12)
        entries.append(replace(entry, updated=updated, content_type=declared))
        if day % 3 == 0:
            label = {"third": 0.75, "day": 0.5} if day % 2 else {"third": 0.5}
            labels.append(LabelChange(entry.bucket, entry.name, entry.generation, label, "set"))
    assert all(made.index.upsert(entries))
    assert all(made.index.set_labels(labels))
    yield made
    close_index(made.index)


@pytest.fixture
def server(album: Album, log: Path) -> Iterator[Server]:
    with serving("search", log, **album.settings) as running:
        yield running


def search(server: Server, **body: Any) -> Any:
    reply = server.post("/search", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def names(album: Album, reply: Any) -> list[str]:
    return [result["uri"].removeprefix(album.bucket.url) for result in reply["results"]]


def all_pages(server: Server, **body: Any) -> list[Any]:
    results, cursor = [], None
    while True:
        reply = search(server, **body, **({"cursor": cursor} if cursor else {}))
        assert reply["complete"]
        results += reply["results"]
        if (cursor := reply["cursor"]) is None:
            return results


def test_search_on_every_index(server: Server, album: Album) -> None:
    """One test, because each server and each index takes a second to start."""
    entries = sorted(album.index.entries(), key=lambda entry: entry.name)
    everything = all_pages(server, text="a cat", k=50)
    _check_pages(everything, len(entries))
    _check_filters(server, album, everything)
    _check_fields(everything, album)
    _check_composed(server, album)
    _check_closeness(server, album)
    _check_collection(server, album, len(entries))


def _check_pages(everything: list[Any], count: int) -> None:
    scores = [result["score"] for result in everything]
    assert len({result["uri"] for result in everything}) == len(everything) == count
    assert scores == sorted(scores, reverse=True)


def _check_filters(server: Server, album: Album, everything: list[Any]) -> None:
    def matching(**body: Any) -> set[str]:
        linked = {("q" if name == "text" else name): value for name, value in body.items()}
        results = [result["uri"] for result in all_pages(server, text="a cat", k=37, **body)]
        reply = server.get("/search", params={"q": "a cat", "k": 37, **linked})
        assert [result["uri"] for result in reply.json()["results"]] == results[:37]
        assert len(results) == len(set(results))
        # In the order of all results.
        order = [result["uri"] for result in everything]
        assert results == sorted(results, key=order.index)
        return set(results)

    def expected(keep: Any) -> set[str]:
        return {entry.uri for entry in album.index.entries() if keep(entry)}

    day = START + timedelta(days=10)
    assert matching(after="2026-03-11") == expected(lambda entry: entry.updated >= day)
    assert matching(before="2026-03-11") == expected(lambda entry: entry.updated < day)
    assert matching(after="2026-03-11T12:00:00Z", before="2026-03-12T14:00:00.5+02:00") == expected(
        lambda entry: entry.updated in (day + timedelta(hours=12), day + timedelta(hours=36))
    )
    assert matching(label="third") == expected(lambda entry: "third" in entry.labels)
    assert matching(label="day", content_type="image/jpeg") == expected(
        lambda entry: "day" in entry.labels and entry.content_type == "image/jpeg"
    )
    assert matching(content_type="IMAGE/JPEG") == expected(lambda entry: entry.content_type == "image/jpeg")
    assert matching(content_type="image/*") == expected(lambda entry: True)
    assert matching(content_type="video/*") == matching(label="none") == set()
    assert matching(prefix="emoji/c", label="third") == expected(
        lambda entry: entry.name.startswith("emoji/c") and "third" in entry.labels
    )
    similar = {"uri": album.uri(CAT), "label": "third", "k": 100}
    found = {result["uri"] for result in server.get("/similar", params=similar).json()["results"]}
    assert found == expected(lambda entry: "third" in entry.labels and entry.name != CAT)


def _check_fields(everything: list[Any], album: Album) -> None:
    by_uri = {result["uri"]: result for result in everything}
    for entry in album.index.entries():
        result = by_uri[entry.uri]
        assert result["size"] == entry.size
        assert datetime.fromisoformat(result["updated"]) == entry.updated
        assert result["updated"].endswith("Z")
        assert result["labels"] == pytest.approx(dict(entry.labels))
        assert list(result["labels"]) == list(entry.labels)
        assert 0 <= result["closeness"] <= 1


def _check_composed(server: Server, album: Album) -> None:
    body = {"text": "candle", "uri": album.uri(CAKE), "not": "a face", "k": 20}
    first = search(server, **body)
    second = search(server, **body, cursor=first["cursor"])

    for result in (*first["results"], *second["results"]):
        assert sum(result["parts"].values()) == pytest.approx(result["score"], abs=1e-5)
    together = [*names(album, first), *names(album, second)]
    assert len(set(together)) == 40
    assert CAKE not in together
    assert first["results"][-1]["score"] >= second["results"][0]["score"]


def _check_closeness(server: Server, album: Album) -> None:
    for text in ("birthday cake", "fire engine"):
        reply = search(server, text=text)
        assert not reply["nothing_close"]
        best = reply["results"][0]
        assert best["score"] >= reply["threshold"]
        assert best["closeness"] > 0.5
    reply = search(server, text="qwertz uiop")
    assert reply["nothing_close"]
    assert all(result["closeness"] < 0.5 for result in reply["results"])


def _check_collection(server: Server, album: Album, count: int) -> None:
    reply = server.get("/collection").json()
    labels = [label for entry in album.index.entries() for label in entry.labels]

    assert (reply["count"], reply["model"], reply["sampled"]) == (count, "demo", False)
    assert reply["labels"] == [
        {"label": "third", "count": labels.count("third")},
        {"label": "day", "count": labels.count("day")},
    ]
    assert (reply["originals"], reply["notice"]) == (False, None)
    original = server.get("/original", params={"uri": album.uri(CAKE)})
    assert (original.status_code, original.json()["error"]["code"]) == (403, "originals_off")
    assert "SERVE_ORIGINALS" in original.json()["error"]["message"]
