from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import requests

from tests.support.serving import Server, error_code, error_message, provenance, serving
from tests.support.vectors import assert_texts, model, raw_texts

Send = Callable[..., requests.Response]

TEXTS = [
    "a cat",
    "",
    " ",
    "Grüße aus Köln 🎂",
    "猫の写真",
    "قطة",
    "<|endoftext|>",
    "&amp;lt;b&gt;",
    "a\nb\tc\0d",
]


@pytest.fixture(scope="module")
def embed_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("embed_text", tmp_path_factory.mktemp("embed_text") / "log") as server:
        yield server


@pytest.fixture(params=["gateway /embed/text", "embed_text /embed/text", "embed_text /"])
def ask(request: pytest.FixtureRequest) -> Send:
    """POST to one of the places that take texts."""
    name, path = request.param.split()
    return lambda query="", **arguments: request.getfixturevalue(name).post(path + query, **arguments)


def test_a_list_in_json(ask: Send) -> None:
    reply = ask(json={"texts": TEXTS})

    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "application/json"
    body = reply.json()
    assert_texts(body["embeddings"], *TEXTS)
    assert body["errors"] == []
    assert body["truncated"] == []


def test_a_reply_says_what_made_it(ask: Send) -> None:
    manifest = model().manifest
    reply = ask(json={"texts": ["a"]})
    for made_by in (provenance(reply), provenance(ask(data={"text": "a"}))):
        assert made_by == {
            "model": manifest.name,
            "dimensions": str(manifest.dimensions),
            "space": manifest.space,
            "fingerprint": manifest.towers["text"].fingerprint,
        }
    body = reply.json()
    assert body["model"] == manifest.name
    assert body["dimensions"] == manifest.dimensions
    assert body["space"] == manifest.space
    assert body["fingerprint"] == manifest.towers["text"].fingerprint


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("multipart", [False, True])
def test_one_text_in_a_form(ask: Send, text: str, multipart: bool) -> None:
    reply = ask(files={"text": (None, text)}) if multipart else ask(data={"text": text})

    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"text", "embedding"}
    assert body["text"] == text
    assert "truncated" not in provenance(reply)
    assert_texts([body["embedding"]], text)


@pytest.mark.parametrize("query", ["?normalize=false", "?normalize=0", "?normalize=False"])
def test_the_raw_projection_in_a_form(ask: Send, query: str) -> None:
    vector = ask(query, data={"text": "a cat"}).json()["embedding"]

    np.testing.assert_allclose(vector, raw_texts("a cat")[0], rtol=1e-5, atol=1e-6)


def test_the_raw_projection_in_json(ask: Send) -> None:
    vectors = ask(json={"texts": TEXTS, "normalize": False}).json()["embeddings"]
    asked = ask("?normalize=false", json={"texts": TEXTS}).json()["embeddings"]

    np.testing.assert_allclose(vectors, raw_texts(*TEXTS), rtol=1e-5, atol=1e-6)
    assert asked == vectors


def test_a_bad_item_keeps_its_place_and_costs_the_others_nothing(ask: Send) -> None:
    body = ask(json={"texts": ["a", 5, "b", None, ["c"], "x" * 10_001, {}, "d"]}).json()

    assert [bool(vector) for vector in body["embeddings"]] == [True, False, True, *[False] * 4, True]
    assert_texts([vector for vector in body["embeddings"] if vector], "a", "b", "d")
    assert [set(error) for error in body["errors"]] == [{"input", "index", "code", "message"}] * 5
    assert [(error["input"], error["index"], error["code"]) for error in body["errors"]] == [
        ("texts", 1, "text_not_a_string"),
        ("texts", 3, "text_not_a_string"),
        ("texts", 4, "text_not_a_string"),
        ("texts", 5, "text_too_long"),
        ("texts", 6, "text_not_a_string"),
    ]
    assert body["errors"][3]["message"] == "The text has 10,001 characters; 10,000 are allowed."


def test_long_texts_are_cut_and_named(ask: Send) -> None:
    long = "cat " * 100
    reply = ask(json={"texts": ["a", long, 5, long]})

    assert reply.json()["truncated"] == [1, 3]
    assert provenance(reply)["truncated"] == "1,3"
    assert provenance(ask(data={"text": long}))["truncated"] == "0"


def test_a_batch_of_256(ask: Send) -> None:
    texts = [f"photo {number} of a cat" + " and a dog" * (number % 7) for number in range(256)]
    body = ask(json={"texts": texts}).json()

    assert_texts(body["embeddings"], *texts)


@pytest.mark.parametrize("name", ["demo", "DEMO", "Demo"])
def test_a_model_asked_for_by_name(ask: Send, name: str) -> None:
    assert ask(json={"texts": ["a"], "model": name}).json()["model"] == "demo"
    assert provenance(ask(f"?model={name}", data={"text": "a"}))["model"] == "demo"


@pytest.mark.parametrize("name", ["ViT-B-32", "", "../demo2", "💥"])
def test_an_unknown_model(ask: Send, name: str) -> None:
    for reply in (ask(json={"texts": ["a"], "model": name}), ask("?model=" + name, data={"text": "a"})):
        assert (reply.status_code, error_code(reply)) == (404, "model_unknown")
        assert error_message(reply).endswith("is not served here; there is demo.")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "json_invalid", "JSON"),
        (b"{", "json_invalid", "JSON"),
        (b'{"texts": ["a",]}', "json_invalid", "JSON"),
        (b"{'texts': ['a']}", "json_invalid", "JSON"),
        (b'{"texts": [NaN]}', "json_invalid", "JSON"),
        (b'{"texts": ["\xff"]}', "json_invalid", "JSON"),
        (b'{"texts": ["\\ud800"]}', "json_invalid", "JSON"),
        ('{"texts": ["a"]}'.encode("utf-16"), "json_invalid", "JSON"),
        (b'["a"]', "json_not_an_object", "JSON object"),
        (b'"a"', "json_not_an_object", "JSON object"),
        (b"null", "json_not_an_object", "JSON object"),
        (b"{}", "field_missing", "`texts`"),
        (b'{"text": "a"}', "field_missing", "`texts`"),
        (b'{"texts": "a"}', "body_invalid", "$.texts: Expected `array`, got `str`"),
        (b'{"texts": null}', "body_invalid", "$.texts: Expected `array`, got `null`"),
        (b'{"texts": []}', "body_invalid", "$.texts: Expected `array` of length >= 1"),
        (b'{"texts": {"0": "a"}}', "body_invalid", "$.texts: Expected `array`, got `object`"),
        (b'{"texts": ["a"], "normalize": "false"}', "body_invalid", "$.normalize: Expected `bool`"),
        (b'{"texts": ["a"], "normalize": 0}', "body_invalid", "$.normalize: Expected `bool`"),
        (b'{"texts": ["a"], "model": 5}', "body_invalid", "$.model: Expected `str | null`"),
    ],
)
def test_json_that_is_refused(ask: Send, body: bytes, code: str, says: str) -> None:
    reply = ask(data=body, headers=JSON)

    assert reply.status_code == 400
    assert set(reply.json()) == {"error"}
    assert set(reply.json()["error"]) == {"code", "message"}
    assert error_code(reply) == code
    assert says in error_message(reply)


def test_a_byte_order_mark_and_a_charset_do_no_harm(ask: Send) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    reply = ask(data=b"\xef\xbb\xbf" + b'{"texts": ["a"]}', headers=headers)

    assert_texts(reply.json()["embeddings"], "a")


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "status", "code", "says"),
    [
        (FORM, b"", 400, "field_missing", "`text`"),
        (FORM, b"texts=a", 400, "field_missing", "`text`"),
        (FORM, b'{"texts": ["a"]}', 400, "field_missing", "Content-Type: application/json"),
        (FORM, b"text=caf%E9", 400, "body_unreadable", "UTF-8"),
        (FORM, b"text=caf\xe9", 400, "body_unreadable", "UTF-8"),
        (FORM, b"text=%ED%A0%80", 400, "body_unreadable", "UTF-8"),
        (FORM, b"&a=b" * 1001, 400, "body_unreadable", "1,000 fields"),
        (FORM, b"text=" + b"x" * 10_001, 413, "text_too_long", "10,000"),
        (MULTIPART, b"", 400, "body_unreadable", "multipart"),
        (MULTIPART, b"text=a", 400, "body_unreadable", "multipart"),
        (MULTIPART, PART + b"a", 400, "body_unreadable", "multipart"),
        (MULTIPART, PART.replace(b"text", b"texts") + b"a\r\n--x--\r\n", 400, "field_missing", "`text`"),
        (MULTIPART, (PART + b"a\r\n") * 1001 + b"--x--\r\n", 413, "request_too_large", "1,000 parts"),
        (
            {"Content-Type": "multipart/form-data"},
            PART + b"a\r\n--x--\r\n",
            400,
            "body_unreadable",
            "boundary",
        ),
    ],
)
def test_forms_that_are_refused(
    ask: Send, headers: dict[str, str], body: bytes, status: int, code: str, says: str
) -> None:
    reply = ask(data=body, headers=headers)

    assert reply.status_code == status
    assert error_code(reply) == code
    assert says in error_message(reply)


def test_normalize_that_cannot_be_read(ask: Send) -> None:
    reply = ask("?normalize=perhaps", data={"text": "a"})

    assert (reply.status_code, error_code(reply)) == (400, "normalize_invalid")


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "application/xml", "nonsense", ""])
def test_other_content_types(ask: Send, content_type: str) -> None:
    reply = ask(data=b"a", headers={"Content-Type": content_type})

    assert reply.status_code == 415
    message = error_message(reply)
    assert "application/json, application/x-www-form-urlencoded, multipart/form-data" in message


def test_a_compressed_body_is_refused(ask: Send) -> None:
    refused = partial(ask, headers={"Content-Encoding": "gzip"})
    replies: list[Any] = [refused(json={"texts": ["a"]}), refused(data={"text": "a"})]

    assert [reply.status_code for reply in replies] == [415, 415]
    assert error_code(replies[0]) == "encoding_unsupported"
