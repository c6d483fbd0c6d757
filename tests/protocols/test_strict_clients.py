"""Clients of the seed systems that refuse every reply with an unknown, missing or null field.

Jackson, a JSON library of Java, throws on unknown keys by default. Each struct here is what the original's
own client reads; where a seed's text and its code differ, both are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
import requests

from tests.support.pictures import in_base64, picture, web
from tests.support.serving import Server, error_code, error_message, provenance, serving
from tests.support.vectors import assert_images, assert_texts, raw_images, raw_texts

T = TypeVar("T")

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web({"/cat.jpg": CAT, "/coffee.webp": COFFEE}) as url:
        yield url


def _read(reply: requests.Response, struct: type[T]) -> T:
    """A successful reply as a strict client reads it."""
    assert reply.status_code == 200, reply.text
    return msgspec.json.decode(reply.content, type=struct)


class NotebookText(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    embedding: list[float]


# Both names of the file: the seed's text reads `filename`, the original's client `image_filename`.
class NotebookImage(msgspec.Struct, forbid_unknown_fields=True):
    filename: str
    image_filename: str
    embedding: list[float]


class EncoderReply(msgspec.Struct, forbid_unknown_fields=True):
    success: bool
    embedding: list[float]
    dimensions: int


class PhotoAppReply(msgspec.Struct, forbid_unknown_fields=True):
    message: str
    embedding: list[float]


class PlainError(msgspec.Struct, forbid_unknown_fields=True):
    error: str


# The native shape, whose replies keep their further fields; a client of the seed reads these.
class MicroserviceReply(msgspec.Struct):
    embeddings: list[list[float]]


class MixedReply(msgspec.Struct):
    # Without defaults: both are there, null where the request lacks the list.
    text_embeddings: list[list[float]] | None
    image_embeddings: list[list[float]] | None


def test_the_notebooks_text(gateway: Server) -> None:
    reply = _read(gateway.post("/embed/text", data={"text": "a cat"}), NotebookText)

    assert reply.text == "a cat"
    assert_texts([reply.embedding], "a cat")


@pytest.mark.parametrize("field", ["image", "file"])
def test_the_notebooks_picture(gateway: Server, field: str) -> None:
    files = {field: ("cat.jpg", CAT, "image/jpeg")}

    reply = _read(gateway.post("/embed/image", files=files), NotebookImage)

    assert (reply.filename, reply.image_filename) == ("cat.jpg", "cat.jpg")
    assert_images([reply.embedding], CAT)


def test_the_notebooks_start_page(gateway: Server) -> None:
    body = gateway.get("/").json()

    assert isinstance(body["message"], str)
    assert isinstance(body["status"], str)


def test_the_microservice(gateway: Server, site: str) -> None:
    texts = _read(gateway.post("/embed/text", json={"texts": ["a cat", ""]}), MicroserviceReply)
    urls = {"urls": [f"{site}/cat.jpg", f"{site}/coffee.webp"]}
    pictures = _read(gateway.post("/embed/image", json=urls), MicroserviceReply)

    assert_texts(texts.embeddings, "a cat", "")
    assert_images(pictures.embeddings, CAT, COFFEE)


def test_the_microservice_with_one_kind_of_item(gateway: Server, site: str) -> None:
    texts = _read(gateway.post("/embed/mixed", json={"texts": ["a cat"]}), MixedReply)
    urls = _read(gateway.post("/embed/mixed", json={"urls": [f"{site}/cat.jpg"]}), MixedReply)
    both = _read(
        gateway.post("/embed/mixed", json={"texts": ["a cat"], "urls": [f"{site}/cat.jpg"]}), MixedReply
    )

    assert (texts.image_embeddings, urls.text_embeddings) == (None, None)
    assert texts.text_embeddings
    assert urls.image_embeddings
    assert_texts(texts.text_embeddings, "a cat")
    assert_images(urls.image_embeddings, CAT)
    assert (both.text_embeddings, both.image_embeddings) == (texts.text_embeddings, urls.image_embeddings)


@pytest.mark.parametrize("kind", ["data", "json", "files"])
def test_the_photo_apps_upload(gateway: Server, site: str, kind: str) -> None:
    url: Any = f"{site}/cat.jpg"
    arguments: dict[str, Any] = {kind: {"imageUrl": (None, url) if kind == "files" else url}}

    reply = _read(gateway.post("/upload", **arguments), PhotoAppReply)

    assert_images([reply.embedding], CAT)


@pytest.fixture(scope="module")
def embed_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("embed_text", tmp_path_factory.mktemp("embed_text") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("search")
    with serving("search", folder / "log", INDEX_URL=f"sqlite://{folder}/index.sqlite") as server:
        yield server


@pytest.mark.parametrize("function", ["gateway", "embed_text", "search"])
def test_the_photo_apps_prompt(request: pytest.FixtureRequest, function: str) -> None:
    server: Server = request.getfixturevalue(function)

    reply = _read(server.post("/search", json={"prompt": "a cat"}), PhotoAppReply)

    assert_texts([reply.embedding], "a cat")


@pytest.mark.parametrize("function", ["gateway", "search"])
def test_a_prompt_does_not_hide_the_search(request: pytest.FixtureRequest, function: str) -> None:
    server: Server = request.getfixturevalue(function)

    found = server.post("/search", json={"text": "a cat"})
    wrong = server.post("/search", json={})

    assert found.status_code == 200
    assert "results" in found.json()
    assert set(provenance(found)) == {"model", "dimensions", "space", "fingerprint"}
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "query_missing")


def test_the_encoders_text(gateway: Server) -> None:
    reply = _read(gateway.post("/encode_text", json={"text": "a cat"}), EncoderReply)

    # Its Java client throws unless `success` is true.
    assert reply.success is True
    assert reply.dimensions == len(reply.embedding)
    assert_texts([reply.embedding], "a cat")


@pytest.mark.parametrize("empty", ["", None])
def test_the_encoders_picture(gateway: Server, site: str, empty: str | None) -> None:
    cat, coffee = in_base64(CAT), f"{site}/coffee.webp"
    expected = [
        ({"image_b64": cat}, CAT),
        ({"image_url": coffee}, COFFEE),
        # The first of the two wins, and the second is used where it is empty.
        ({"image_b64": cat, "image_url": coffee}, CAT),
        ({"image_url": coffee, "image_b64": cat}, CAT),
        ({"image_b64": empty, "image_url": coffee}, COFFEE),
        ({"image_b64": cat, "image_url": empty}, CAT),
        ({"image_b64": cat, "image_url": "no URL"}, CAT),
    ]
    for body, data in expected:
        reply = _read(gateway.post("/encode_image", json=body), EncoderReply)
        assert reply.success is True
        assert_images([reply.embedding], data)


@pytest.mark.parametrize(
    ("path", "arguments", "status"),
    [
        ("/embed/text", {"data": {"texts": "a"}}, 400),
        ("/embed/image", {"files": {"image": ("cat.jpg", b"no picture")}}, 422),
        ("/embed/image", {"files": {"image": ("cat.jpg", b"")}}, 400),
        ("/upload", {"data": {"imageUrl": "no URL"}}, 400),
        ("/upload", {"json": {"imageUrl": 5}}, 400),
        ("/upload", {"json": {}}, 400),
        ("/upload", {"data": "a", "headers": {"Content-Type": "text/plain"}}, 415),
        ("/encode_text", {"json": {}}, 400),
        ("/encode_text", {"json": {"text": "a", "model": "none"}}, 404),
        ("/encode_text", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("/encode_image", {"json": {"image_b64": "?"}}, 400),
        ("/encode_image", {"json": {"image_url": "http://169.254.169.254/"}}, 400),
        ("/search", {"json": {"prompt": 5}}, 400),
    ],
)
def test_an_error_is_a_sentence(gateway: Server, path: str, arguments: dict[str, Any], status: int) -> None:
    reply = gateway.post(path, **arguments)

    assert reply.status_code == status
    # A page that shows `error` must not show [object Object].
    error = msgspec.json.decode(reply.content, type=PlainError)
    assert error.error == error_message(reply)
    assert error_code(reply) not in error.error


def test_a_missing_path_and_method_are_told_as_the_protocol_does(gateway: Server) -> None:
    for path in ("/encode_text", "/upload"):
        reply = gateway.get(path)
        assert (reply.status_code, error_code(reply)) == (405, "method_not_allowed")
        assert msgspec.json.decode(reply.content, type=PlainError).error


def test_where_vectors_come_from_is_told_in_headers(gateway: Server, site: str) -> None:
    replies = [
        gateway.post("/embed/text", data={"text": "a"}),
        gateway.post("/encode_text", json={"text": "a"}),
        gateway.post("/search", json={"prompt": "a"}),
    ]
    pictures = [
        gateway.post("/embed/image", files={"image": CAT}),
        gateway.post("/encode_image", json={"image_b64": in_base64(CAT)}),
        gateway.post("/upload", data={"imageUrl": f"{site}/cat.jpg"}),
        gateway.post("/api/legacy/tasks/image-embedding/demo/jobs", json={"image": in_base64(CAT)}),
    ]
    native_text = gateway.post("/embed/text", json={"texts": ["a"]})
    native_image = gateway.post("/embed/image", data=CAT, headers={"Content-Type": "image/jpeg"})

    for native, others in ((native_text, replies), (native_image, pictures)):
        body = native.json()
        for reply in [native, *others]:
            assert provenance(reply) == {
                "model": body["model"],
                "dimensions": str(body["dimensions"]),
                "space": body["space"],
                "fingerprint": body["fingerprint"],
            }


def test_raw_protocols_keep_the_originals_scale(tmp_path: Path, site: str) -> None:
    settings = {"RAW_PROTOCOLS": "encoder, notebook,photo-app", "FETCH_PRIVATE_HOSTS": "127.0.0.1"}
    with serving("gateway", tmp_path / "log", **settings) as server:
        text = [
            server.post("/encode_text", json={"text": "a cat"}).json()["embedding"],
            server.post("/embed/text", data={"text": "a cat"}).json()["embedding"],
            server.post("/search", json={"prompt": "a cat"}).json()["embedding"],
        ]
        image = [
            server.post("/encode_image", json={"image_b64": in_base64(CAT)}).json()["embedding"],
            server.post("/embed/image", files={"image": CAT}).json()["embedding"],
            server.post("/upload", data={"imageUrl": f"{site}/cat.jpg"}).json()["embedding"],
        ]
        # A request's own word counts more than the setting.
        unit = [
            server.post("/encode_text", json={"text": "a cat", "normalize": True}).json()["embedding"],
            server.post("/embed/text?normalize=true", data={"text": "a cat"}).json()["embedding"],
        ]
        native = server.post("/embed/text", json={"texts": ["a cat"]}).json()["embeddings"]

    for vectors, expected in ((text, raw_texts("a cat")), (image, raw_images(CAT))):
        assert abs(np.linalg.norm(expected[0]) - 1) > 0.01
        np.testing.assert_allclose(vectors, np.repeat(expected, 3, axis=0), rtol=1e-5, atol=1e-6)
    assert_texts([*unit, *native], "a cat", "a cat", "a cat")
