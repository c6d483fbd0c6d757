"""Cursors: pages that go on where the last one ended, though the index changes, and damaged ones."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_embeddings.errors import ApiError
from clip_embeddings.index.types import Hit, QueryResult
from clip_embeddings.search.cursors import Cursor, decode, encode, hash_uri
from clip_embeddings.search.paging import find_page
from clip_embeddings.search.queries import PARTS
from clip_embeddings.search.replies import write
from clip_embeddings.search.schema import MAX_CURSOR_CHARS
from tests.support.albums import Album, emoji, new_album
from tests.support.entries import entry
from tests.support.serving import Server, serving

QUERY = b"0123456789abcdef"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add(emoji())
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("search", tmp_path_factory.mktemp("search") / "log", **album.settings) as running:
        yield running


def ask(server: Server, path: str, params: Mapping[str, Any]) -> Any:
    reply = server.get(path, params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()


def pages(server: Server, path: str, params: Mapping[str, Any]) -> Iterator[list[str]]:
    """The URIs of each page."""
    cursor = None
    while True:
        reply = ask(server, path, {**params, **({"cursor": cursor} if cursor else {})})
        yield [result["uri"] for result in reply["results"]]
        cursor = reply["cursor"]
        if cursor is None:
            return


@pytest.mark.parametrize("k", [pytest.param(7, marks=pytest.mark.full), 100])
def test_pages_together_are_everything_once(server: Server, album: Album, k: int) -> None:
    uri = album.uri("emoji/cat face.png")
    queries: list[tuple[str, dict[str, str]]] = [
        ("/search", {"q": "a cat"}),
        ("/search", {"q": "a cat", "not": "face", "uri": uri}),
        ("/similar", {"uri": uri}),
    ]
    for path, params in queries:
        results = [one for page in pages(server, path, {**params, "k": k}) for one in page]
        assert len(results) == len(set(results)) == album.index.count() - ("uri" in params)
        first = ask(server, path, {**params, "k": 100})["results"]
        assert results[:100] == [result["uri"] for result in first]


def test_pages_may_differ_in_size_and_route(server: Server) -> None:
    first = ask(server, "/search", {"q": "a cat", "k": 3})
    body = {"text": "a cat", "k": 5, "cursor": first["cursor"]}
    second = server.post("/search", json=body).json()

    together = [*first["results"], *second["results"]]
    assert together == ask(server, "/search", {"q": "a cat", "k": 8})["results"]


def test_the_last_page_has_no_cursor(server: Server) -> None:
    best = ask(server, "/search", {"q": "a cat", "k": 5})["results"]
    bound = (best[2]["score"] + best[3]["score"]) / 2

    found = list(pages(server, "/search", {"q": "a cat", "k": 3, "min_score": bound}))

    assert [len(page) for page in found] == [3]
    assert [len(page) for page in pages(server, "/search", {"q": "a cat", "k": 2, "min_score": bound})] == [
        2,
        1,
    ]


def test_a_page_goes_on_though_the_index_has_changed(server: Server, album: Album) -> None:
    """Photos come before the page, on it, and its last result goes."""
    everything = [one for page in pages(server, "/search", {"q": "a fish", "k": 100}) for one in page]
    first = ask(server, "/search", {"q": "a fish", "k": 10})
    assert [result["uri"] for result in first["results"]] == everything[:10]
    best, last = (uri.removeprefix(album.bucket.url) for uri in (everything[0], everything[9]))
    copies = {f"copies/{number}.png": album.bucket.read(best)[0] for number in range(40)}
    album.add(copies)

    body = {"q": "a fish", "k": 10, "cursor": first["cursor"]}
    after_insertion = [result["uri"] for result in ask(server, "/search", body)["results"]]
    album.index.delete(album.bucket.url, last, album.entry(last).generation)
    after_removal = [result["uri"] for result in ask(server, "/search", body)["results"]]

    assert after_insertion == after_removal == everything[10:20]
    for name in copies:
        album.index.delete(album.bucket.url, name, album.entry(name).generation)


CHANGED = [
    {"q": "a dog"},
    {"not": "a dog"},
    {"prefix": "e"},
    {"min_score": "-1"},
    {"after": "2001-01-01"},
    {"before": "2101-01-01"},
    {"content_type": "image/png"},
    {"label": "cat"},
]


@pytest.mark.parametrize("change", CHANGED)
def test_a_cursor_of_another_query_is_refused(server: Server, change: dict[str, str]) -> None:
    cursor = ask(server, "/search", {"q": "a cat"})["cursor"]
    reply = server.get("/search", params={"q": "a cat", "cursor": cursor, **change})

    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "cursor_mismatch")
    assert "another query" in reply.json()["error"]["message"]


@pytest.mark.parametrize("cursor", ["", "x", "é", "A" * 104, "A" * MAX_CURSOR_CHARS])
def test_a_damaged_cursor_is_refused(server: Server, cursor: str) -> None:
    for path in ("/search?q=a", "/similar?uri="):
        path += "" if path.endswith("a") else "x"
        reply = server.get(path, params={"cursor": cursor})
        codes = ("cursor_invalid",) if path.startswith("/search") else ("cursor_invalid", "object_unknown")
        assert reply.json()["error"]["code"] in codes
    long = server.get("/search", params={"q": "a", "cursor": "A" * (MAX_CURSOR_CHARS + 1)})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "query_invalid")


SCORES = st.floats(-1, 1)
FACTORS = st.dictionaries(st.sampled_from(PARTS), st.floats(-800, 800))


@settings(deadline=None)
@given(st.integers(1, 999), SCORES, st.text(max_size=2000), FACTORS)
def test_a_cursor_reads_back_and_fits_a_url(
    rank: int, score: float, uri: str, factors: dict[str, float]
) -> None:
    text = encode(Cursor(rank, score, hash_uri(uri), factors), QUERY)

    assert re.fullmatch("[A-Za-z0-9_-]{104}", text)
    expected = {part: factors.get(part, 0.0) for part in PARTS}
    assert decode(text, QUERY) == Cursor(rank, score, hash_uri(uri), expected)
    with pytest.raises(ApiError, match="another query"):
        decode(text, QUERY[::-1])


@settings(deadline=None)
@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    text = encode(Cursor(5, 0.25, hash_uri("a"), {}), QUERY)
    raw = bytearray(base64.urlsafe_b64decode(text))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    damaged = [base64.urlsafe_b64encode(raw).decode(), text[: data.draw(st.integers(0, len(text) - 1))]]

    for one in damaged:
        with pytest.raises(ApiError, match="damaged"):
            decode(one, QUERY)


def hits(*scores: float, name: str = "n") -> list[Hit]:
    return [Hit(entry(f"{name}{number}"), score) for number, score in enumerate(scores)]


def page_names(entries: list[Hit], k: int, last: Cursor | None, without: str | None = None) -> list[str]:
    page = find_page(lambda count: QueryResult(entries[:count]), k, last, without)
    return [hit.entry.name for hit in page.hits]


def test_a_last_result_that_is_gone_is_replaced_by_its_place() -> None:
    entries = hits(0.9, 0.8, 0.7, 0.6)
    assert page_names(entries, 2, Cursor(2, 0.75, hash_uri("gone"), {})) == ["n2", "n3"]
    assert page_names(entries, 2, Cursor(3, 0.85, hash_uri("gone"), {})) == ["n1", "n2"]
    # Among equal scores nothing tells what was seen, but how many were.
    equal = hits(*[0.5] * 10)
    assert page_names(equal, 3, Cursor(4, 0.5, hash_uri("gone"), {})) == ["n4", "n5", "n6"]


def test_a_last_result_that_has_moved_is_not_followed() -> None:
    entries = hits(0.9, 0.8, 0.7, 0.6)
    assert page_names(entries, 2, Cursor(2, 0.75, hash_uri(entries[0].entry.uri), {})) == ["n2", "n3"]


def test_an_index_that_did_not_see_everything_says_so() -> None:
    entries = hits(0.9, 0.8)
    page = find_page(lambda count: QueryResult(entries, is_complete=False), 10, None)
    body = write(page, cursor=None, noise=None, composition=None, model="m", space="s", notice=None)

    assert not page.is_complete
    assert (body["complete"], len(body["results"])) == (False, 2)


def test_there_are_a_thousand_results_at_most() -> None:
    entries = hits(*(1 - number / 5000 for number in range(1500)))

    def find(count: int) -> QueryResult:
        assert count <= 1000
        return QueryResult(entries[:count])

    last, seen = None, 0
    while True:
        page = find_page(find, 100, last)
        seen += len(page.hits)
        if not page.has_more:
            break
        last = Cursor(page.rank, page.hits[-1].score, hash_uri(page.hits[-1].entry.uri), {})
    assert seen == 1000
    without = entries[3].entry.uri
    assert len(find_page(find, 100, None, without).hits) == 100
