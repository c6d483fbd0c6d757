"""Weaviate's modules multi2vec-clip and text2vec-transformers: the bytes that its Go clients send.

Sources: weaviate/weaviate, modules/multi2vec-clip/clients/{vectorizer,startup,meta}.go as of 2024, and
usecases/modulecomponents/clients/transformers/transformers.go as of 2026. They build requests with net/http
and set no header, so there is no Content-Type; encoding/json writes a nil list as null and `&` as \\u0026.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clip_embeddings.config import Settings
from clip_embeddings.engine.manifest import ModelError
from clip_embeddings.errors import ApiError
from clip_embeddings.lazy import Lazy
from clip_embeddings.protocols.weaviate import ready
from clip_embeddings.runtime import make_runtime
from tests.support.models import copy_demo, copy_model, flip_a_byte
from tests.support.pictures import in_base64, picture
from tests.support.raw_http import RawReply, exchange
from tests.support.serving import KEY, Server, serving
from tests.support.vectors import assert_images, assert_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "PNG")
# Of its readiness check, in seconds.
CLIENT_TIMEOUT = 0.5


def _post(server: Server, path: str, body: str) -> RawReply:
    head = f"""POST {path} HTTP/1.1
        Host: HOST
        User-Agent: Go-http-client/1.1
        Content-Length: LENGTH
        Accept-Encoding: gzip"""
    return exchange(server.url, head, body.encode())


def _get(server: Server, path: str) -> RawReply:
    head = f"""GET {path} HTTP/1.1
        Host: HOST
        User-Agent: Go-http-client/1.1
        Accept-Encoding: gzip"""
    return exchange(server.url, head)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("closed") / "log"
    with serving("embed_mixed", log, API_KEY=KEY) as server:
        yield server


def test_texts_and_pictures(gateway: Server) -> None:
    body = json.dumps({"texts": ["cats ", "and dogs"], "images": [in_base64(CAT), in_base64(COFFEE)]})
    reply = _post(gateway, "/vectorize", body)

    assert (reply.status, reply.json().keys()) == (200, {"textVectors", "imageVectors"})
    assert reply.headers["Embedding-Model"] == "demo"
    assert_texts(reply.json()["textVectors"], "cats ", "and dogs")
    assert_images(reply.json()["imageVectors"], CAT, COFFEE)


def test_a_list_that_is_null(gateway: Server) -> None:
    texts = _post(gateway, "/vectorize", '{"texts":["cats \\u0026 dogs"],"images":null}').json()
    images = _post(gateway, "/vectorize", f'{{"texts":null,"images":["{in_base64(CAT)}"]}}').json()

    assert_texts(texts.pop("textVectors"), "cats & dogs")
    assert texts == {"imageVectors": []}
    assert_images(images.pop("imageVectors"), CAT)
    assert images == {"textVectors": []}


@pytest.mark.parametrize("body", ["{}", '{"texts":[],"images":[]}', '{"texts":null,"images":null}'])
def test_nothing_to_embed(gateway: Server, body: str) -> None:
    assert _post(gateway, "/vectorize", body).json() == {"textVectors": [], "imageVectors": []}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ('{"texts":["a",3],"images":["QUJD"]}', 400, "`texts[1]`: "),
        ('{"texts":["a","b"],"images":[3]}', 400, "`images[0]`: "),
        ('{"texts":null,"images":["bm90IGFuIGltYWdl"]}', 422, "not an image"),
        ('{"texts":"a"}', 400, "$.texts"),
        ("[]", 400, "JSON object"),
        ("{", 400, "valid JSON"),
        (json.dumps({"texts": ["a"] * 257}), 413, "256"),
    ],
)
def test_an_error_is_a_string_as_the_client_reads_it(
    gateway: Server, body: str, status: int, words: str
) -> None:
    reply = _post(gateway, "/vectorize", body)

    assert (reply.status, reply.json().keys()) == (status, {"error"})
    assert words in reply.json()["error"]


def test_a_picture_that_fails_is_named(gateway: Server) -> None:
    body = json.dumps({"texts": ["a cat"], "images": [in_base64(CAT), in_base64(b"not an image")]})

    assert _post(gateway, "/vectorize", body).json()["error"].startswith("`images[1]`: ")


def test_with_a_content_type(gateway: Server) -> None:
    reply = gateway.post("/vectorize", json={"texts": ["a cat"]})
    form = gateway.post("/vectorize", data={"texts": "a cat"})

    assert_texts(reply.json()["textVectors"], "a cat")
    assert (form.status_code, form.json().keys()) == (415, {"error"})


def test_live_and_ready_within_the_clients_time(log: Path) -> None:
    with serving("gateway", log) as server:
        assert (_get(server, "/.well-known/live").status, _loaded(server)) == (204, False)
        statuses = []
        while 204 not in statuses:
            start = time.monotonic()
            reply = _get(server, "/.well-known/ready")
            assert time.monotonic() - start < CLIENT_TIMEOUT
            statuses.append(reply.status)
            assert len(statuses) < 20, statuses

        assert _loaded(server)
        assert set(statuses[:-1]) <= {503}
        assert reply.body == b""


def test_a_damaged_model_is_never_ready(tmp_path: Path, log: Path) -> None:
    folder = copy_demo(tmp_path / "damaged")
    flip_a_byte(folder / "text.data")

    with serving("embed_mixed", log, MODEL=str(folder), VERIFY_BEFORE_SERVING="true") as server:
        messages: list[str] = []
        while len(messages) < 100 and not any("cannot be loaded" in message for message in messages):
            reply = _get(server, "/.well-known/ready")
            assert (reply.status, reply.json().keys()) == (503, {"error"})
            messages.append(reply.json()["error"])
        assert _get(server, "/.well-known/live").status == 204

    assert "cannot be loaded" in messages[-1]
    assert "not ready" in log.read_text()


@pytest.mark.parametrize("error", [ModelError("damaged"), RuntimeError("no memory"), TimeoutError()])
def test_a_load_that_fails_in_any_way_is_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise error

    runtime = make_runtime("embed_text", ("text",), Settings())
    model = replace(runtime.default_model(), text=Lazy(fail))
    runtime = replace(runtime, models={model.manifest.name: model})

    with pytest.raises(ApiError) as refused:
        ready(runtime, {})

    assert (refused.value.status, refused.value.code) == (503, "not_ready")
    assert "cannot be loaded" in refused.value.message
    assert "not ready" in caplog.text
    assert str(error) in caplog.text


def test_meta_is_an_object(gateway: Server) -> None:
    meta = _get(gateway, "/meta").json()

    assert (meta["model"], meta["dimensions"]) == ("demo", 128)


def test_checks_need_no_key_and_vectors_do(closed: Server) -> None:
    assert _get(closed, "/.well-known/live").status == 204
    assert _get(closed, "/.well-known/ready").status in (204, 503)
    for reply in (_get(closed, "/meta"), _post(closed, "/vectorize", "{}")):
        assert (reply.status, reply.json().keys()) == (401, {"error"})


def test_a_model_without_texts(tmp_path: Path, log: Path) -> None:
    folder = copy_model(tmp_path / "pictures", towers=("image",))

    with serving("gateway", log, MODEL=str(folder)) as server:
        images = _post(server, "/vectorize", f'{{"texts":null,"images":["{in_base64(CAT)}"]}}')
        texts = _post(server, "/vectorize", '{"texts":["a"],"images":null}')

    assert_images(images.json()["imageVectors"], CAT)
    assert (texts.status, texts.json().keys()) == (400, {"error"})


def test_one_text_of_text2vec_transformers(gateway: Server) -> None:
    config = {"pooling_strategy": "masked_mean", "task_type": "query"}
    reply = _post(gateway, "/vectors", _text("a cat", config))

    assert reply.json().pop("dim") == 128
    assert reply.json()["text"] == "a cat"
    assert reply.json().keys() == {"text", "vector", "dim"}
    assert_texts([reply.json()["vector"]], "a cat")
    assert _post(gateway, "/vectors/", _text("a cat", {"dimensions": 128})).status == 200


def test_other_dimensions_than_the_models(gateway: Server) -> None:
    reply = _post(gateway, "/vectors", _text("a cat", {"dimensions": 64}))

    assert (reply.status, reply.json().keys()) == (400, {"error"})
    assert reply.headers["Embedding-Error-Code"] == "dimensions_unsupported"
    assert "model;" not in reply.headers["Server-Timing"]


def _text(text: str, config: dict[str, Any]) -> str:
    return json.dumps({"text": text, "dims": 0, "vector": None, "error": "", "config": config})


def _loaded(server: Server) -> bool:
    return bool(server.get("/health").json()["model_loaded"])
