"""Queries of several parts: their arithmetic, what it finds, and what is wrong with some."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.errors import ApiError
from clip_embeddings.search.compose import compose, factors
from model_cache.demo.emoji_sheet import load_emoji_sheet
from tests.support.albums import Album, new_album
from tests.support.entries import direction
from tests.support.pictures import in_base64
from tests.support.serving import Server, serving
from tests.support.vectors import raw_images, raw_texts

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SHAPES = ("heart", "circle", "square")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Every sixth emoji of the sheet, and the colored shapes."""
    made = new_album(tmp_path_factory.mktemp("album"))
    names = {f"{color} {shape}" for color in COLORS for shape in SHAPES}
    pictures = {}
    for position, emoji in enumerate(load_emoji_sheet()):
        if position % 6 == 0 or emoji.name in names:
            file = io.BytesIO()
            emoji.image.save(file, "PNG")
            pictures[f"{emoji.name.replace('/', '-')}.png"] = file.getvalue()
    made.add(pictures)
    return made


@pytest.fixture(scope="module")
def server(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("search", tmp_path_factory.mktemp("search") / "log", **album.settings) as running:
        yield running


def search(server: Server, **body: Any) -> Any:
    reply = server.post("/search", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def names(reply: Any) -> list[str]:
    return [
        result["uri"].rpartition("/")[2].removesuffix(".png").replace("%20", " ")
        for result in reply["results"]
    ]


def picture(album: Album, name: str) -> bytes:
    return album.bucket.read(f"{name}.png")[0]


@pytest.mark.parametrize("color", ["blue", "green", "yellow", "purple"])
@pytest.mark.parametrize("kind", ["uri", "image"])
def test_words_change_a_picture(server: Server, album: Album, kind: str, color: str) -> None:
    red = album.uri("red heart.png") if kind == "uri" else in_base64(picture(album, "red heart"))

    found = names(search(server, **{kind: red, "text": color, "k": 4}))

    # The picture's shape and the words' color, where the picture alone has only its color, and the color
    # alone has any shape.
    assert f"{color} heart" in found
    alone = names(search(server, **{kind: red, "k": 4}))
    assert f"{color} heart" not in alone


def test_what_is_not_wanted_goes_down_and_the_rest_stays(server: Server) -> None:
    plain = names(search(server, text="heart", k=100))
    falls: list[int] = []
    stays: list[int] = []
    for color in COLORS:
        without = names(search(server, text="heart", k=100, **{"not": color}))
        for name in (f"{color} heart" for color in COLORS):
            before, after = ((found.index(name) if name in found else 100) for found in (plain, without))
            (falls if name == f"{color} heart" else stays).append(after - before)

    assert np.median(falls) > 20
    assert np.median(stays) < 10


def test_shares_add_up_to_the_score(server: Server, album: Album) -> None:
    body = {
        "text": "blue",
        "image": in_base64(picture(album, "red heart")),
        "uri": album.uri("red circle.png"),
        "not": "a face",
    }
    reply = search(server, **body, weights={"not": 0.25, "image": 2}, k=50)

    for result in reply["results"]:
        assert list(result["parts"]) == ["text", "image", "uri", "not"]
        assert sum(result["parts"].values()) == pytest.approx(result["score"], abs=5e-6)
    assert album.uri("red circle.png") not in [result["uri"] for result in reply["results"]]
    assert all(result["parts"] is None for result in search(server, text="blue")["results"])
    light = search(server, **body, weights={"image": 0, "uri": 0, "not": 0, "text": 3}, k=50)
    assert {result["parts"]["image"] for result in light["results"]} == {0}
    # A weight of zero takes a part out: what is left is the text.
    alone = search(server, text="blue", k=51)
    assert names(light) == [name for name in names(alone) if name != "red circle"][:50]


def test_the_score_is_the_cosine_of_the_documented_sum(server: Server, album: Album) -> None:
    """docs/photos-and-index.md: weights divided by the spreads of the parts' scores, summed, normalized."""
    entries = list(album.index.entries())
    rows = np.stack([entry.vector for entry in entries])
    text, away = normalize_rows(raw_texts("blue", "a face"))
    image = normalize_rows(raw_images(picture(album, "red heart")))[0]
    weighted = [(1.0, text), (0.5, image), (-0.5, away)]
    total = sum(weight / (rows @ vector).std() * vector for weight, vector in weighted)
    scores = rows @ (total / np.linalg.norm(total))
    expected = [entries[at].uri for at in np.argsort(-scores)[:5]]

    body = {"text": "blue", "image": in_base64(picture(album, "red heart")), "not": "a face", "k": 5}
    reply = search(server, **body)

    assert [result["uri"] for result in reply["results"]] == expected
    assert [result["score"] for result in reply["results"]] == pytest.approx(
        sorted(scores, reverse=True)[:5], abs=2e-3
    )


def test_an_object_needs_no_run_of_the_model(server: Server, album: Album) -> None:
    uri = album.uri("red heart.png")
    by_body = server.post("/search", json={"uri": uri, "k": 3})
    similar = server.get("/similar", params={"uri": uri, "k": 3})
    by_link = server.get("/search", params={"uri": uri, "k": 3})

    assert by_body.json() == similar.json() == by_link.json()
    assert "model" not in by_body.headers["Server-Timing"]
    assert by_body.headers["Embedding-Fingerprint"] == "unused"
    assert by_body.json()["model"] == "demo"


def test_a_link_composes_too(server: Server, album: Album) -> None:
    parts = {"uri": album.uri("red heart.png"), "not": "face"}

    linked = server.get("/search", params={"q": "blue", **parts})

    assert linked.status_code == 200
    assert linked.json() == search(server, text="blue", **parts)
    assert search(server, text="blue", **parts)["results"][0]["parts"].keys() == {"text", "uri", "not"}


PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="

# Each request, the code, and the words that help.
BAD = [
    ({"not": "a"}, "query_missing", "with it"),
    ({"text": "", "image": PICTURE}, "text_empty", "what to look for"),
    ({"text": "a", "not": " "}, "text_empty", "`not` is empty"),
    ({"text": "a", "not": 5}, "body_invalid", "$.not"),
    ({"text": "a", "uri": 5}, "body_invalid", "$.uri"),
    ({"text": "a", "weights": {"image": 1}}, "weights_invalid", "no `image`"),
    ({"text": "a", "weights": {"not": 1}}, "weights_invalid", "no `not`"),
    ({"text": "a", "not": "b", "weights": {"text": 0}}, "weights_invalid", "at least one"),
    ({"text": "a", "weights": {"text": -1}}, "body_invalid", "$.weights.text"),
    ({"text": "a", "weights": {"text": 101}}, "body_invalid", "$.weights.text"),
    ({"text": "a", "weights": {"text": "1"}}, "body_invalid", "$.weights.text"),
    ({"text": "a", "weights": {"texts": 1}}, "body_invalid", "`texts`"),
    ({"text": "a", "weights": [1]}, "body_invalid", "$.weights"),
    ({"text": "a", "not": "a", "weights": {"not": 1}}, "query_cancels_out", "cancel"),
    ({"text": "a", "image": "????"}, "image_reference_invalid", "base64"),
]


@pytest.mark.parametrize(("body", "code", "words"), BAD)
def test_what_is_wrong_is_named(server: Server, body: Any, code: str, words: str) -> None:
    reply = server.post("/search", json=body)

    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_weight_is_a_finite_number(server: Server, number: str) -> None:
    body = f'{{"text": "a", "not": "b", "weights": {{"text": {number}}}}}'
    reply = server.post("/search", data=body, headers={"Content-Type": "application/json"})

    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in ("json_invalid", "body_invalid")


def test_an_object_of_another_model_is_not_mixed_in(server: Server, album: Album) -> None:
    other = replace(album.entry("red heart.png"), name="other.png", space="of-another-model")
    assert album.index.upsert([other]) == [True]
    uri = album.uri("other.png")

    for body in ({"uri": uri, "text": "blue"}, {"uri": uri, "not": "blue"}, {"uri": uri, "model": "demo"}):
        reply = server.post("/search", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "space_mismatch"), body
    alone = search(server, uri=uri)
    assert (alone["space"], alone["model"]) == ("of-another-model", None)
    unknown = server.post("/search", json={"uri": album.uri("none.png"), "text": "a"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "object_unknown")


UNITS = {part: direction(part) for part in ("text", "image", "uri", "not")}
WEIGHT = st.floats(0, 100)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(UNITS)), WEIGHT, min_size=2), st.integers(0, 3))
def test_any_composition_has_length_one_and_shares_that_add_up(weights: dict[str, float], seed: int) -> None:
    assume(sum(weights.values()) > 1e-3)
    rows = np.stack([direction(f"{seed} {row}") for row in range(60)])
    for sample in (None, rows):
        composed = compose(factors(weights, UNITS, sample), UNITS)
        assert np.linalg.norm(composed.vector) == pytest.approx(1, abs=1e-5)
        shares = composed.shares(rows[0])
        assert sum(shares.values()) == pytest.approx(float(composed.vector @ rows[0]), abs=1e-5)


def test_equal_weights_have_equal_influence_whatever_the_spread() -> None:
    """Pictures whose similarity varies four times as much to the picture as to the text."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((500, 2)) * (1, 0.25)
    sample = np.column_stack([rows, np.full(500, 3.0)]).astype(np.float32)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    vectors = {"image": np.eye(3, dtype=np.float32)[0], "text": np.eye(3, dtype=np.float32)[1]}

    used = factors({"text": 1.0, "image": 1.0}, vectors, sample)

    assert used["text"] / used["image"] == pytest.approx(4, rel=0.1)
    assert factors({"text": 1.0, "image": 1.0}, vectors, None) == {"text": 2.0, "image": 1.0}
    assert factors({"text": 1.0, "not": 1.0}, {**vectors, "not": vectors["image"]}, None) == {
        "text": 1.0,
        "not": -1.0,
    }


def test_opposites_leave_nothing() -> None:
    with pytest.raises(ApiError, match="cancel"):
        compose({"text": 1.0, "uri": 1.0}, {"text": UNITS["text"], "uri": -UNITS["text"]})
