from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from clip_embeddings.engine.manifest import fingerprint
from tests.support.pictures import data_uri, in_base64, picture, web
from tests.support.serving import Server, error_code, error_message, provenance, serving
from tests.support.vectors import assert_images, assert_texts, model, raw_images, raw_texts

Send = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def embed_mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("embed_mixed") / "log"
    with serving("embed_mixed", log, FETCH_PRIVATE_HOSTS="127.0.0.1") as server:
        yield server


@pytest.fixture(params=["gateway /embed/mixed", "embed_mixed /embed/mixed", "embed_mixed /"])
def ask(request: pytest.FixtureRequest) -> Send:
    """POST to one of the places that take texts and pictures together."""
    name, path = request.param.split()
    return lambda query="", **arguments: request.getfixturevalue(name).post(path + query, **arguments)


def test_texts_and_urls(ask: Send) -> None:
    with web({"/a": picture("chelsea"), "/b": picture("coffee")}) as site:
        reply = ask(json={"texts": ["a cat", "a cup", ""], "urls": [f"{site}/b", f"{site}/a"]})

    assert reply.status_code == 200
    body = reply.json()
    assert_texts(body["text_embeddings"], "a cat", "a cup", "")
    assert_images(body["image_embeddings"], picture("coffee"), picture("chelsea"))
    assert body["errors"] == []
    assert body["truncated"] == []


def test_texts_and_images(ask: Send) -> None:
    body = ask(json={"texts": ["x " * 100], "images": [data_uri(picture()), in_base64(picture())]}).json()

    assert_texts(body["text_embeddings"], "x " * 100)
    assert_images(body["image_embeddings"], picture(), picture())
    assert body["truncated"] == [0]


def test_a_reply_says_what_made_it(ask: Send) -> None:
    manifest = model().manifest
    reply = ask(json={"texts": ["a"], "images": [in_base64(picture())]})
    body = reply.json()

    text, image = manifest.towers["text"], manifest.towers["image"]
    assert provenance(reply) == {
        "model": manifest.name,
        "dimensions": str(manifest.dimensions),
        "space": manifest.space,
        "fingerprint": f"text={text.fingerprint},image={fingerprint(image.fingerprint, True, False)}",
    }
    assert body["model"] == manifest.name
    assert body["dimensions"] == manifest.dimensions
    assert body["space"] == manifest.space
    assert body["fingerprint"] == {
        "text": manifest.towers["text"].fingerprint,
        "image": fingerprint(manifest.towers["image"].fingerprint, True, False),
    }


def test_raw_projections(ask: Send) -> None:
    body = ask(json={"texts": ["a"], "images": [in_base64(picture())], "normalize": False}).json()

    assert body["text_embeddings"][0] == pytest.approx(raw_texts("a")[0], rel=1e-5, abs=1e-6)
    assert body["image_embeddings"][0] == pytest.approx(raw_images(picture())[0], rel=1e-5, abs=1e-6)


def test_bad_items_of_both_kinds(ask: Send) -> None:
    body = ask(json={"texts": [1, "a"], "images": ["", in_base64(picture()), "?"]}).json()

    assert [bool(vector) for vector in body["text_embeddings"]] == [False, True]
    assert [bool(vector) for vector in body["image_embeddings"]] == [False, True, False]
    assert [(error["input"], error["index"], error["code"]) for error in body["errors"]] == [
        ("texts", 0, "text_not_a_string"),
        ("images", 0, "image_empty"),
        ("images", 2, "image_reference_invalid"),
    ]
    assert_texts(body["text_embeddings"][1:], "a")
    assert_images(body["image_embeddings"][1:2], picture())


def test_texts_alone(ask: Send) -> None:
    body = ask(json={"texts": ["a cat", 5]}).json()

    assert body["image_embeddings"] is None
    assert_texts(body["text_embeddings"][:1], "a cat")
    assert [(error["input"], error["index"]) for error in body["errors"]] == [("texts", 1)]
    assert set(body["fingerprint"]) == {"text"}


@pytest.mark.parametrize("field", ["urls", "images"])
def test_pictures_alone(ask: Send, field: str) -> None:
    body = ask(json={field: [data_uri(picture()), "?"]}).json()

    assert body["text_embeddings"] is None
    assert_images(body["image_embeddings"][:1], picture())
    assert [(error["input"], error["index"]) for error in body["errors"]] == [(field, 1)]
    assert body["truncated"] == []
    assert set(body["fingerprint"]) == {"image"}


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({}, "list_missing", "`texts`, `urls` or `images`"),
        ({"texts": None}, "list_missing", "`texts`, `urls` or `images`"),
        ({"text": ["a"]}, "list_missing", "`texts`, `urls` or `images`"),
        ({"texts": ["a"], "urls": []}, "body_invalid", "$.urls: Expected `array` of length >= 1"),
        ({"texts": [], "images": ["a"]}, "body_invalid", "$.texts: Expected `array` of length >= 1"),
        ({"texts": ["a"], "urls": ["a"], "images": ["a"]}, "list_ambiguous", "not both"),
    ],
)
def test_json_that_is_refused(ask: Send, body: dict[str, Any], code: str, says: str) -> None:
    reply = ask(json=body)

    assert (reply.status_code, error_code(reply)) == (400, code)
    assert says in error_message(reply)


def test_only_json_is_taken(ask: Send) -> None:
    for form in ({"data": {"text": "a"}}, {"files": {"file": picture()}}):
        reply = ask(**form)
        assert (reply.status_code, error_code(reply)) == (415, "content_type_unsupported")


def test_texts_and_images_count_together(ask: Send) -> None:
    reply = ask(json={"texts": ["a"] * 200, "images": ["a"] * 57})

    assert (reply.status_code, error_code(reply)) == (413, "too_many_items")
    assert error_message(reply) == "The request has 257 items; 256 are allowed."
