"""Immich: the bytes that its server sends to its machine learning service.

Sources: immich-app/immich, server/src/repositories/machine-learning.repository.ts (the client, which sends
FormData with the `fetch` of Node.js) and machine-learning/immich_ml/main.py (the service), both as of 2025.
The headers and the form are those recorded from Node.js 20.20 for the calls of that file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.models import copy_model
from tests.support.pictures import FORMATS, picture
from tests.support.raw_http import RawReply, exchange
from tests.support.serving import Server, serving
from tests.support.vectors import assert_images, assert_texts

BOUNDARY = "----formdata-undici-036867911397"
CAT = picture("chelsea")


def _predict(server: Server, entries: Any, image: bytes | None = None, text: str | None = None) -> RawReply:
    entries = entries if isinstance(entries, str) else json.dumps(entries, separators=(",", ":"))
    parts = [b'form-data; name="entries"\r\n\r\n' + entries.encode()]
    if image is not None:
        image_head = (
            b'form-data; name="image"; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        parts.append(image_head + image)
    if text is not None:
        parts.append(b'form-data; name="text"\r\n\r\n' + text.encode())
    opening = f"--{BOUNDARY}\r\nContent-Disposition: ".encode()
    body = b"".join(opening + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()
    head = f"""POST /predict HTTP/1.1
        host: HOST
        connection: keep-alive
        content-type: multipart/form-data; boundary={BOUNDARY}
        accept: */*
        accept-language: *
        sec-fetch-mode: cors
        user-agent: node
        accept-encoding: gzip, deflate
        content-length: LENGTH"""
    return exchange(server.url, head, body)


def _visual(model: str) -> dict[str, Any]:
    return {"clip": {"visual": {"modelName": model}}}


def _textual(model: str) -> dict[str, Any]:
    return {"clip": {"textual": {"modelName": model, "options": {}}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that is called like its checkpoint, another of that checkpoint, and one with a public name."""
    models = tmp_path_factory.mktemp("models")
    other = copy_model(models / "other", architecture="ViT-B-32", pretrained="openai")
    b32 = copy_model(models / "b32", name="ViT-B-32/openai")
    xlm = copy_model(
        models / "open-clip-vit-b32", architecture="xlm-roberta-base-ViT-B-32", pretrained="laion5b_s13b_b90k"
    )
    with serving("embed_mixed", models / "log", MODELS=f"{other},{b32},{xlm}") as server:
        yield server


def test_a_picture(gateway: Server) -> None:
    reply = _predict(gateway, _visual("demo"), image=CAT)

    assert reply.json().keys() == {"clip", "imageHeight", "imageWidth"}
    assert (reply.json()["imageWidth"], reply.json()["imageHeight"]) == (160, 120)
    assert isinstance(reply.json()["clip"], str)
    assert reply.headers["Embedding-Model"] == "demo"
    assert_images([json.loads(reply.json()["clip"])], CAT)


def test_a_text(gateway: Server) -> None:
    reply = _predict(gateway, _textual("demo"), text="a cat\r\non a mat")

    assert reply.json().keys() == {"clip"}
    assert_texts([json.loads(reply.json()["clip"])], "a cat\r\non a mat")


def test_a_language_is_accepted(gateway: Server) -> None:
    entries = {"clip": {"textual": {"modelName": "demo", "options": {"language": "de"}}}}

    assert_texts([json.loads(_predict(gateway, entries, text="eine Katze").json()["clip"])], "eine Katze")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_of_a_picture_in_every_format(gateway: Server, kind: str) -> None:
    reply = _predict(gateway, _visual("demo"), image=picture("coffee", kind, (1600, 1000)))

    assert (reply.json()["imageWidth"], reply.json()["imageHeight"]) == (1600, 1000)


def test_the_size_is_that_before_any_exif_orientation(gateway: Server) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(CAT)).save(file, "JPEG", exif=exif)

    reply = _predict(gateway, _visual("demo"), image=file.getvalue()).json()

    assert (reply["imageWidth"], reply["imageHeight"]) == (160, 120)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("ViT-B-32__openai", "b32"),
        ("vit_b_32__OpenAI", "b32"),
        ("XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k", "open-clip-vit-b32"),
        ("open-clip-vit-b32", "open-clip-vit-b32"),
    ],
)
def test_a_model_is_found_by_the_name_that_immich_gives_it(server: Server, name: str, served: str) -> None:
    reply = _predict(server, _textual(name), text="a cat")

    assert (reply.status, reply.headers["Embedding-Model"]) == (200, served)


def test_a_model_that_is_not_served(server: Server) -> None:
    reply = _predict(server, _visual("ViT-L-14__openai"), image=CAT)

    assert (reply.status, reply.json().keys()) == (404, {"detail"})
    assert "other, b32, open-clip-vit-b32" in reply.json()["detail"]


def test_any_name_where_that_is_the_setting(log: Path) -> None:
    with serving("embed_mixed", log, ANY_MODEL_PROTOCOLS="immich") as server:
        reply = _predict(server, _visual("ViT-L-14__openai"), image=CAT)

    assert_images([json.loads(reply.json()["clip"])], CAT)


FACES = {
    "facial-recognition": {
        "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
        "recognition": {"modelName": "buffalo_l"},
    }
}
OCR = {
    "ocr": {
        "detection": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.5, "maxResolution": 736}},
        "recognition": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.8}},
    }
}


@pytest.mark.parametrize("entries", [FACES, OCR, _visual("demo") | FACES])
def test_other_tasks_are_refused_by_name(gateway: Server, entries: dict[str, Any]) -> None:
    reply = _predict(gateway, entries, image=CAT)

    assert (reply.status, reply.json().keys()) == (422, {"detail"})
    assert list(entries)[-1] in reply.json()["detail"]
    assert "switch it off" in reply.json()["detail"]
    assert reply.headers["Embedding-Error-Code"] == "task_unserved"


@pytest.mark.parametrize(
    "entries",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"clip": {}}',
        '{"clip": {"visual": {}}}',
        '{"clip": {"visual": null}}',
        '{"clip": {"visual": {"modelName": 3}}}',
        '{"clip": {"other": {"modelName": "demo"}}}',
        '{"clip": {"visual": {"modelName": "demo"}, "textual": {"modelName": "demo"}}}',
        '{"clip": ' * 5000,
        '{"clip": {"visual": {"options": ' + "[" * 5000,
    ],
)
def test_entries_that_do_not_fit(gateway: Server, entries: str) -> None:
    reply = _predict(gateway, entries, image=CAT)

    assert (reply.status, reply.json().keys()) == (422, {"detail"})
    assert reply.headers["Embedding-Error-Code"] == "entries_invalid"


def test_the_entry_goes_with_what_is_sent(gateway: Server) -> None:
    assert _predict(gateway, _textual("demo"), image=CAT).status == 422
    assert _predict(gateway, _visual("demo"), text="a cat").status == 422
    assert _predict(gateway, _visual("demo")).status == 400
    assert gateway.post("/predict", files={"image": CAT}).status_code == 422


def test_a_file_that_is_no_picture(gateway: Server) -> None:
    reply = _predict(gateway, _visual("demo"), image=b"not an image")

    assert (reply.status, reply.json().keys()) == (422, {"detail"})


def test_errors_before_the_form_is_read(gateway: Server) -> None:
    for reply in (gateway.get("/predict"), gateway.post("/predict", json={})):
        assert reply.status_code in (405, 415)
        assert reply.json().keys() == {"detail"}


def test_ping(gateway: Server) -> None:
    head = """GET /ping HTTP/1.1
        host: HOST
        connection: keep-alive
        accept: */*
        accept-language: *
        sec-fetch-mode: cors
        user-agent: node
        accept-encoding: gzip, deflate"""
    reply = exchange(gateway.url, head)

    assert (reply.status, reply.body) == (200, b"pong")
    assert reply.headers.get_content_type() == "text/plain"
