"""OpenAI's protocol as openai-python, langchain, Jina's, infinity's and vLLM's clients speak it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from clip_embeddings.engine.model import normalize_rows
from tests.support.pictures import data_uri, in_base64, picture, web
from tests.support.serving import KEY, Server, error_code, serving
from tests.support.vectors import assert_images, assert_texts, model, raw_images, raw_texts

CAT, COFFEE = picture("chelsea"), picture("coffee", "WebP")
TEXTS = ["a cat", "a cup of coffee"]
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web({"/cat.jpg": CAT}) as url:
        yield url


@pytest.fixture(scope="module")
def text_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A function for texts with a key, which takes any name of a model, and an alias."""
    settings = {"API_KEY": KEY, "MODEL_ALIASES": "org/clip=demo", "ANY_MODEL_PROTOCOLS": "openai"}
    with serving("embed_text", tmp_path_factory.mktemp("embed_text") / "log", **settings) as server:
        yield server


def _vectors(reply: requests.Response) -> list[list[float]]:
    assert reply.status_code == 200, reply.text
    data = reply.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    assert {entry["object"] for entry in data} == {"embedding"}
    return [entry["embedding"] for entry in data]


def _error(reply: requests.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] is None or isinstance(error["param"], str)
    return error


def _post(server: Server, **body: Any) -> requests.Response:
    return server.post(PATH, json=body)


@pytest.mark.parametrize("path", [PATH, "/embeddings"])
def test_texts(gateway: Server, path: str) -> None:
    reply = gateway.post(path, json={"model": "demo", "input": TEXTS, "user": "someone"})

    assert_texts(_vectors(reply), *TEXTS)
    assert set(reply.json()) == {"object", "data", "model", "usage"}
    assert (reply.json()["object"], reply.json()["model"]) == ("list", "demo")
    tokens = sum(model().text.get().embed(TEXTS).token_counts)
    assert reply.json()["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert reply.headers["Embedding-Space"] == model().manifest.space


def test_one_text_may_be_a_string(gateway: Server) -> None:
    assert_texts(_vectors(_post(gateway, input="a cat")), "a cat")


def test_base64_is_little_endian_float32(gateway: Server) -> None:
    encoded = _vectors(_post(gateway, input=TEXTS, encoding_format="base64"))

    decoded = [np.frombuffer(base64.b64decode(str(vector)), "<f4") for vector in encoded]
    assert_texts(decoded, *TEXTS)


@pytest.mark.parametrize("encoding", [None, "float"])
def test_without_base64_vectors_are_numbers(gateway: Server, encoding: str | None) -> None:
    assert_texts(_vectors(_post(gateway, input="a cat", encoding_format=encoding)), "a cat")


def test_another_encoding_is_refused(gateway: Server) -> None:
    error = _error(_post(gateway, input="a cat", encoding_format="int8"), 400)

    assert (error["param"], error["code"]) == ("encoding_format", "encoding_unsupported")


def test_the_models_own_dimensions_are_accepted_and_others_refused(gateway: Server) -> None:
    own = model().manifest.dimensions
    assert_texts(_vectors(_post(gateway, input="a cat", dimensions=own)), "a cat")

    error = _error(_post(gateway, input="a cat", dimensions=own // 2), 400)

    assert (error["param"], error["code"]) == ("dimensions", "dimensions_unsupported")
    assert str(own) in error["message"]


@pytest.mark.parametrize("tokens", [[1820, 8415], [[1820, 8415], [64]], [[]]])
def test_token_ids_are_refused_with_the_setting_that_helps(gateway: Server, tokens: list[Any]) -> None:
    error = _error(_post(gateway, input=tokens), 400)

    assert "check_embedding_ctx_length=False" in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("empty", ["", [], [{"text": ""}]])
def test_an_empty_input_is_refused(gateway: Server, empty: Any) -> None:
    error = _error(_post(gateway, input=empty), 400)

    assert (error["param"], error["code"]) == ("input", "input_empty")


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ("", "input_empty"),
        ({"text": ""}, "input_empty"),
        ([1], "token_ids_unsupported"),
        (1, "token_ids_unsupported"),
    ],
)
def test_an_item_that_is_no_text_is_named(gateway: Server, item: Any, code: str) -> None:
    error = _error(_post(gateway, input=["a cat", item]), 400)

    assert (error["param"], error["code"]) == ("input", code)
    assert error["message"].startswith("Item 1: ")


def test_a_body_without_input_is_refused(gateway: Server) -> None:
    error = _error(_post(gateway, model="demo"), 400)

    assert (error["param"], error["code"]) == ("input", "field_missing")


def test_2048_texts_are_accepted_and_more_refused(gateway: Server) -> None:
    assert len(_vectors(_post(gateway, input=["a cat"] * 2048))) == 2048

    error = _error(_post(gateway, input=["a cat"] * 2049), 413)

    assert error["code"] == "too_many_items"


def test_an_unknown_model_has_openais_code(gateway: Server) -> None:
    reply = _post(gateway, model="text-embedding-3-small", input="a cat")

    error = _error(reply, 404)
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "model",
        "model_not_found",
    )
    assert error_code(reply) == "model_unknown"


def test_errors_of_routing_have_openais_shape(gateway: Server) -> None:
    _error(gateway.get(PATH), 405)
    _error(gateway.post(PATH, data="input=cat"), 415)
    _error(gateway.post(PATH, data=b"{", headers={"Content-Type": "application/json"}), 400)


def test_an_error_without_the_key(text_server: Server) -> None:
    for reply in (_post(text_server, input="a cat"), text_server.get("/v1/models")):
        error = _error(reply, 401)
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_any_model_and_aliases(text_server: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for name in ("text-embedding-3-small", "org/clip", "demo"):
        reply = text_server.post(PATH, json={"model": name, "input": "a cat"}, headers=headers)
        assert reply.json()["model"] == "demo"
        assert_texts(_vectors(reply), "a cat")
    for name in ("org%2Fclip", "org/clip"):
        assert text_server.get(f"/v1/models/{name}", headers=headers).json()["id"] == "demo"


def test_a_function_for_texts_refuses_pictures(text_server: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"input": [{"text": "a cat"}, {"image": in_base64(CAT)}]}

    error = _error(text_server.post(PATH, json=body, headers=headers), 400)

    assert error["code"] == "tower_missing"
    assert "embed_text" in error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_models(gateway: Server, path: str) -> None:
    reply = gateway.get(path).json()

    assert reply["object"] == "list"
    (entry,) = reply["data"]
    assert (entry["id"], entry["object"]) == ("demo", "model")
    assert isinstance(entry["created"], int)
    assert isinstance(entry["owned_by"], str)
    assert gateway.get(f"{path}/demo").json() == entry


def test_an_unknown_model_cannot_be_looked_up(gateway: Server) -> None:
    assert _error(gateway.get("/v1/models/none%2Fsuch"), 404)["code"] == "model_not_found"


# Jina's objects.


def test_jina_keeps_the_order_of_texts_and_pictures(gateway: Server, site: str) -> None:
    items = [
        {"image": f"{site}/cat.jpg"},
        {"text": "a cat"},
        {"image": in_base64(COFFEE)},
        "a cup of coffee",
        {"image": data_uri(CAT)},
    ]
    options = {"normalized": True, "embedding_type": "float", "task": "retrieval.query", "truncate": True}

    reply = _post(gateway, model="demo", input=items, **options)

    vectors = _vectors(reply)
    assert_images([vectors[0], vectors[2], vectors[4]], CAT, COFFEE, CAT)
    assert_texts([vectors[1], vectors[3]], "a cat", "a cup of coffee")


def test_jina_base64_and_raw_projections(gateway: Server) -> None:
    body = {"input": [{"image": in_base64(CAT)}], "embedding_type": "base64", "normalized": False}

    (encoded,) = _vectors(_post(gateway, **body))

    vector = np.frombuffer(base64.b64decode(str(encoded)), "<f4")
    assert np.abs(vector - raw_images(CAT)[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"text": "a cat", "image": "QUJD"}, "input_invalid"),
        ({"video": "QUJD"}, "input_invalid"),
        ({"text": 5}, "text_not_a_string"),
        ({"image": "not base64!"}, "image_reference_invalid"),
    ],
)
def test_a_bad_item_is_refused_with_its_index(gateway: Server, item: Any, code: str) -> None:
    error = _error(_post(gateway, input=["a cat", item]), 400)

    assert error["code"] == code
    assert error["message"].startswith("Item 1: ")


def test_a_picture_that_cannot_be_decoded_is_refused_with_its_index(gateway: Server) -> None:
    error = _error(_post(gateway, input=["a cat", {"image": in_base64(CAT)}, {"image": "QUJD"}]), 422)

    assert error["message"].startswith("Item 2: ")


def test_pictures_have_the_limit_of_all_protocols(gateway: Server) -> None:
    assert _error(_post(gateway, input=[{"image": "QUJD"}] * 257), 413)["code"] == "too_many_items"
    mixed = [*(["a cat"] * 256), {"image": in_base64(CAT)}]
    assert _error(_post(gateway, input=mixed), 413)["code"] == "too_many_items"
    assert len(_vectors(_post(gateway, input=mixed[1:]))) == 256


def test_nothing_is_run_or_fetched_once_an_item_failed(gateway: Server, site: str) -> None:
    """A run of the model takes some pictures at once; one that failed ends the request after its run."""
    bad = {"image": in_base64(b"not a picture")}

    reply = _post(gateway, input=[{"image": in_base64(CAT)}, bad, *([{"image": f"{site}/cat.jpg"}] * 30)])

    assert _error(reply, 422)["message"].startswith("Item 1: ")
    assert "model;" not in reply.headers["Server-Timing"]


# infinity's modality.


def test_infinity_pictures(gateway: Server, site: str) -> None:
    reply = _post(gateway, input=[f"{site}/cat.jpg", data_uri(COFFEE)], modality="image")

    assert_images(_vectors(reply), CAT, COFFEE)


def test_infinity_other_modalities(gateway: Server) -> None:
    assert_texts(_vectors(_post(gateway, input="a cat", modality="text")), "a cat")
    assert _error(_post(gateway, input="QUJD", modality="audio"), 400)["param"] == "modality"


# vLLM's messages.


def _message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


TEXT_PART = {"type": "text", "text": "a cat"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": data_uri(CAT)}}


def test_vllm_messages(gateway: Server) -> None:
    assert_texts(_vectors(_post(gateway, messages=_message(TEXT_PART))), "a cat")
    assert_texts(_vectors(_post(gateway, messages=[{"role": "user", "content": "a cat"}])), "a cat")
    assert_images(_vectors(_post(gateway, messages=_message(IMAGE_PART))), CAT)
    empty = {"type": "text", "text": ""}
    assert_images(_vectors(_post(gateway, messages=_message(IMAGE_PART, empty))), CAT)


def test_a_text_and_a_picture_give_the_normalized_mean(gateway: Server) -> None:
    (vector,) = _vectors(_post(gateway, messages=_message(IMAGE_PART, TEXT_PART)))

    units = np.concatenate([normalize_rows(raw_texts("a cat")), normalize_rows(raw_images(CAT))])
    (mean,) = normalize_rows(units.mean(axis=0, keepdims=True))
    assert np.abs(np.array(vector) - mean).max() < 1e-4


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [5],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        _message(TEXT_PART, TEXT_PART),
        _message({"type": "video_url", "video_url": {"url": "http://localhost/"}}),
        _message({"type": "image_url", "image_url": {}}),
    ],
)
def test_messages_that_are_no_item_are_refused(gateway: Server, messages: list[Any]) -> None:
    _error(_post(gateway, messages=messages), 400)


def test_a_function_for_pictures_refuses_texts(log: Path) -> None:
    with serving("embed_image", log) as server:
        assert_images(_vectors(_post(server, input=[{"image": in_base64(CAT)}])), CAT)
        assert _error(_post(server, input="a cat"), 400)["code"] == "tower_missing"
