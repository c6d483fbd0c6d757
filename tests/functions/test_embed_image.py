from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import requests

from clip_embeddings.engine.manifest import fingerprint
from tests.support.photographs import photos
from tests.support.pictures import FORMATS, data_uri, in_base64, picture, web
from tests.support.serving import Server, error_code, error_message, provenance, serving
from tests.support.vectors import assert_images, model, raw_images

Send = Callable[..., requests.Response]

FILES = {f"/{kind.lower()}": picture(kind=kind) for kind in FORMATS} | {
    "/coffee": picture("coffee"),
    "/empty": b"",
    "/text": b"hello",
    "/large": b"x" * (20 * 1024 * 1024 + 1),
}


@pytest.fixture(scope="module")
def embed_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("embed_image") / "log"
    with serving("embed_image", log, FETCH_PRIVATE_HOSTS="127.0.0.1") as server:
        yield server


@pytest.fixture(params=["gateway /embed/image", "embed_image /embed/image", "embed_image /"])
def ask(request: pytest.FixtureRequest) -> Send:
    """POST to one of the places that take pictures."""
    name, path = request.param.split()
    return lambda query="", **arguments: request.getfixturevalue(name).post(path + query, **arguments)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web(FILES) as url:
        yield url


def raw(ask: Send, data: bytes, query: str = "", media_type: str = "image/jpeg") -> requests.Response:
    return ask(query, data=data, headers={"Content-Type": media_type})


def test_urls_in_json(ask: Send, site: str) -> None:
    reply = ask(json={"urls": [f"{site}/jpeg", f"{site}/coffee?size=1", f"{site}/png"]})

    assert reply.status_code == 200
    assert reply.json()["errors"] == []
    assert_images(reply.json()["embeddings"], FILES["/jpeg"], FILES["/coffee"], FILES["/png"])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_way_to_send_the_same_picture_gives_the_same_vector(ask: Send, site: str, kind: str) -> None:
    data = picture(kind=kind)
    url = f"{site}/{kind.lower()}"
    standard = in_base64(data)
    references = [
        data_uri(data),
        data_uri(data, "application/pdf"),
        f"data:;base64,{standard}",
        f"DATA:image/png;charset=utf-8;BASE64,{standard}",
        standard,
        standard.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        "\n".join(textwrap.wrap(standard, 76)),
        "\r\n" + standard + "\r\n",
    ]

    vectors = [ask(json={"images": [reference]}).json()["embeddings"][0] for reference in references]
    vectors += [ask(json={field: [url]}).json()["embeddings"][0] for field in ("urls", "images")]
    vectors += [ask(json={"urls": [data_uri(data)]}).json()["embeddings"][0]]
    vectors += [raw(ask, data, media_type=media).json()["embedding"] for media in ("image/jpeg", "image/x")]
    vectors += [
        ask(files={field: ("a", data, media)}).json()["embedding"]
        for field in ("file", "image")
        for media in (None, "text/html")
    ]

    assert_images(vectors[:1], data)
    assert all(vector == vectors[0] for vector in vectors)


@pytest.mark.parametrize("filename", ["cat.jpg", "Größe 猫.jpeg", "../../etc/passwd", 'a"b;c.png', ""])
@pytest.mark.parametrize("field", ["file", "image"])
def test_an_uploaded_file(ask: Send, field: str, filename: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n--x--\r\n' % (
        field.encode(),
        filename.replace('"', '\\"').encode(),
        picture(),
    )
    reply = ask(data=body, headers={"Content-Type": "multipart/form-data; boundary=x"})

    assert reply.status_code == 200
    assert set(reply.json()) == {"filename", "image_filename", "embedding"}
    assert reply.json()["filename"] == reply.json()["image_filename"] == filename
    assert_images([reply.json()["embedding"]], picture())


def test_a_reply_says_what_made_it(ask: Send) -> None:
    manifest = model().manifest
    replies = [
        ask(json={"images": [in_base64(picture())]}),
        ask(files={"file": picture()}),
        raw(ask, picture()),
    ]
    expected = fingerprint(manifest.towers["image"].fingerprint, True, False)
    for reply in replies:
        assert provenance(reply) == {
            "model": manifest.name,
            "dimensions": str(manifest.dimensions),
            "space": manifest.space,
            "fingerprint": expected,
        }
    for body in (replies[0].json(), replies[2].json()):
        assert body["model"] == manifest.name
        assert body["dimensions"] == manifest.dimensions
        assert body["space"] == manifest.space
        assert body["fingerprint"] == expected


def test_the_raw_projection(ask: Send) -> None:
    expected = raw_images(picture())[0]
    listed = ask(json={"images": [in_base64(picture())], "normalize": False}).json()["embeddings"][0]
    uploaded = ask("?normalize=false", files={"file": picture()}).json()["embedding"]
    sent = raw(ask, picture(), "?normalize=false").json()["embedding"]

    np.testing.assert_allclose(listed, expected, rtol=1e-5, atol=1e-6)
    assert listed == uploaded == sent


def test_real_photos(gateway: Server) -> None:
    for data in photos().values():
        reply = gateway.post("/embed/image", files={"file": data})
        assert_images([reply.json()["embedding"]], data)


def test_many_pictures_keep_their_order(ask: Send, site: str) -> None:
    kinds = [FORMATS[number % len(FORMATS)] for number in range(20)]
    body = ask(json={"urls": [f"{site}/{kind.lower()}" for kind in kinds]}).json()

    assert_images(body["embeddings"], *(picture(kind=kind) for kind in kinds))


def test_a_bad_item_keeps_its_place_and_costs_the_others_nothing(ask: Send, site: str) -> None:
    bad: list[tuple[Any, str]] = [
        (5, "image_not_a_string"),
        (None, "image_not_a_string"),
        ("", "image_empty"),
        ("  ", "image_empty"),
        ("cat.jpg", "image_reference_invalid"),
        ("gs://bucket/cat.jpg", "bucket_forbidden"),
        ("gs://bucket", "url_invalid"),
        ("file:///etc/passwd", "url_invalid"),
        ("data:image/png,abc", "data_uri_invalid"),
        ("data:image/png;base64", "data_uri_invalid"),
        ("data:image/png;base64,", "image_empty"),
        ("data:image/png;base64,!", "data_uri_invalid"),
        (in_base64(b"hello"), "image_unsupported"),
        (in_base64(b"<html>"), "image_unsupported"),
        (in_base64(picture()[:500]), "image_undecodable"),
        (in_base64(picture(kind="PNG")[:500]), "image_undecodable"),
        (f"{site}/missing", "fetch_failed"),
        (f"{site}/empty", "fetch_failed"),
        (f"{site}/text", "image_unsupported"),
        (f"{site}/large", "image_too_large"),
        ("http://169.254.169.254/", "url_forbidden"),
        ("http://localhost/", "url_forbidden"),
        ("http://user:password@127.0.0.1/", "url_invalid"),
    ]
    good = in_base64(picture())
    images = [item for reference, _ in bad for item in (reference, good)]
    body = ask(json={"images": images}).json()

    assert len(body["embeddings"]) == len(images)
    assert body["embeddings"][0::2] == [[]] * len(bad)
    assert [(error["input"], error["index"], error["code"]) for error in body["errors"]] == [
        ("images", 2 * place, code) for place, (_, code) in enumerate(bad)
    ]
    for error in body["errors"]:
        assert set(error) == {"input", "index", "code", "message"}
        assert error["message"].endswith(".")
    # Pictures run eight at a time with what came beside them: each reply is the picture's own vector still.
    assert all(vector == body["embeddings"][1] for vector in body["embeddings"][1::2])
    assert_images([body["embeddings"][1]], picture())


@pytest.mark.parametrize("item", ["cat.jpg", "example.com/cat.jpg", "//example.com/cat.jpg", "aGVsbG8="])
def test_urls_must_be_urls(ask: Send, item: str) -> None:
    body = ask(json={"urls": [item]}).json()

    assert body["embeddings"] == [[]]
    assert [(error["input"], error["code"]) for error in body["errors"]] == [("urls", "url_invalid")]


def test_nothing_but_bad_items(ask: Send) -> None:
    reply = ask(json={"images": ["", ""]})

    assert reply.status_code == 200
    assert reply.json()["embeddings"] == [[], []]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({}, "list_missing", "`urls` or `images`"),
        ({"url": "http://example.com/"}, "list_missing", "`urls` or `images`"),
        ({"urls": ["a"], "images": ["a"]}, "list_ambiguous", "not both"),
        ({"urls": [], "images": ["a"]}, "body_invalid", "$.urls: Expected `array` of length >= 1"),
        ({"urls": []}, "body_invalid", "$.urls: Expected `array` of length >= 1"),
        ({"urls": "http://example.com/"}, "body_invalid", "$.urls: Expected `array`, got `str`"),
        ({"images": None}, "body_invalid", "$.images: Expected `array`, got `null`"),
        ({"images": {"a": "b"}}, "body_invalid", "$.images: Expected `array`, got `object`"),
        ({"images": ["a"], "normalize": None}, "body_invalid", "$.normalize: Expected `bool`"),
    ],
)
def test_json_that_is_refused(ask: Send, body: dict[str, Any], code: str, says: str) -> None:
    reply = ask(json=body)

    assert (reply.status_code, error_code(reply)) == (400, code)
    assert says in error_message(reply)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "image_empty"),
        (b"hello", 422, "image_unsupported"),
        (b"%PDF-1.7", 422, "image_unsupported"),
        (picture()[:500], 422, "image_undecodable"),
    ],
)
def test_a_single_picture_that_is_refused(ask: Send, data: bytes, status: int, code: str) -> None:
    for reply in (raw(ask, data), ask(files={"file": ("cat.jpg", data)})):
        assert (reply.status_code, error_code(reply)) == (status, code)


@pytest.mark.parametrize(
    "files",
    [{"picture": ("cat.jpg", picture())}, {"file": (None, "cat.jpg")}, {"image": (None, "cat.jpg")}],
)
def test_a_form_without_the_file(ask: Send, files: dict[str, Any]) -> None:
    reply = ask(files=files)

    assert (reply.status_code, error_code(reply)) == (400, "field_missing")
    assert "file=@" in error_message(reply)


@pytest.mark.parametrize(
    "media_type", ["application/octet-stream", "text/plain", "application/x-www-form-urlencoded", ""]
)
def test_other_content_types(ask: Send, media_type: str) -> None:
    reply = raw(ask, picture(), media_type=media_type)

    assert (reply.status_code, error_code(reply)) == (415, "content_type_unsupported")
    for accepted in ("application/json", "image/*", "multipart/form-data"):
        assert accepted in error_message(reply)


def test_an_unknown_model(ask: Send) -> None:
    replies = [
        ask(json={"images": ["a"], "model": "x"}),
        ask("?model=x", files={"file": picture()}),
        raw(ask, picture(), "?model=x"),
    ]

    assert [(reply.status_code, error_code(reply)) for reply in replies] == [(404, "model_unknown")] * 3
