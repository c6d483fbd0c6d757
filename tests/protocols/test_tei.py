"""Text Embeddings Inference: requests and replies as its router's sources have them.

Source: huggingface/text-embeddings-inference, router/src/http/types.rs, router/src/http/server.rs and
router/src/lib.rs, of 2023 to 2024 (versions 0.1 to 1.6). Its clients are tested unmodified in tests/clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.models import copy_model
from tests.support.serving import KEY, Server, error_code, serving
from tests.support.vectors import assert_texts, model, raw_texts

LONG = "cat " * 200
CONTEXT_LENGTH = 77


@pytest.fixture(scope="module")
def texts_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("embed_text") / "log"
    with serving("embed_text", log, API_KEY=KEY, MAX_ITEMS="2") as server:
        yield server


def test_a_list_of_texts(gateway: Server) -> None:
    body = {"inputs": ["a cat", "a dog"], "truncate": True, "normalize": True, "prompt_name": None}
    reply = gateway.post("/embed", json=body)

    assert reply.headers["Embedding-Model"] == "demo"
    assert_texts(reply.json(), "a cat", "a dog")


def test_one_text_is_answered_with_a_list_of_one_vector(gateway: Server) -> None:
    assert_texts(
        gateway.post("/embed", json={"inputs": "What is Deep Learning?"}).json(), "What is Deep Learning?"
    )


def test_vectors_as_the_model_makes_them(gateway: Server) -> None:
    (vector,) = gateway.post("/embed", json={"inputs": "a cat", "normalize": False}).json()

    np.testing.assert_allclose(vector, raw_texts("a cat")[0], rtol=1e-4, atol=1e-5)
    assert abs(np.linalg.norm(vector) - 1) > 0.01


def test_at_the_root_of_a_function_for_texts(texts_only: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}

    assert_texts(texts_only.post("/", json={"inputs": ["a cat"]}, headers=headers).json(), "a cat")
    assert texts_only.post("/", json={"texts": ["a cat"]}, headers=headers).json()["embeddings"]
    assert texts_only.get("/info", headers=headers).status_code == 200


def test_a_function_for_pictures_names_what_it_takes(log: Path) -> None:
    with serving("embed_image", log) as server:
        reply = server.post("/", json={"inputs": ["a cat"]})

    assert reply.status_code == 400
    assert "`urls` or `images`" in reply.text


def test_texts_are_cut_unless_that_is_ruled_out(gateway: Server) -> None:
    default = gateway.post("/embed", json={"inputs": ["a", LONG]})
    refused = gateway.post("/embed", json={"inputs": ["a", LONG], "truncate": False})
    short = gateway.post("/embed", json={"inputs": ["a"], "truncate": False})

    assert default.headers["Embedding-Truncated"] == "1"
    assert_texts(default.json(), "a", LONG)
    _is_validation(refused, "text_over_context", "Item 1: ")
    assert_texts(short.json(), "a")


def test_texts_are_cut_on_the_right_only(gateway: Server) -> None:
    left = gateway.post("/embed", json={"inputs": LONG, "truncation_direction": "Left"})
    short = gateway.post("/embed", json={"inputs": "a", "truncation_direction": "Left"})
    right = gateway.post("/embed", json={"inputs": LONG, "truncation_direction": "Right"})

    _is_validation(left, "text_over_context", f"{CONTEXT_LENGTH}")
    assert (short.status_code, right.status_code) == (200, 200)


def test_the_models_own_dimensions_may_be_named(gateway: Server) -> None:
    own = model().manifest.dimensions

    assert gateway.post("/embed", json={"inputs": "a", "dimensions": own}).status_code == 200
    _is_validation(
        gateway.post("/embed", json={"inputs": "a", "dimensions": 64}), "dimensions_unsupported", f"{own}"
    )


@pytest.mark.parametrize(
    "options", [{"dimensions": 64}, {"truncate": False}, {"truncation_direction": "Left"}]
)
def test_what_is_not_served_is_refused_before_the_model_runs(
    gateway: Server, options: dict[str, Any]
) -> None:
    reply = gateway.post("/embed", json={"inputs": ["a", LONG], **options})

    assert reply.status_code == 422
    assert "total;" in reply.headers["Server-Timing"]
    assert "model;" not in reply.headers["Server-Timing"]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({}, "field_missing", "inputs"),
        ({"inputs": None}, "body_invalid", "$.inputs"),
        ({"inputs": [[101, 2023, 102]]}, "token_ids_unsupported", "send the text"),
        ({"inputs": [101, 2023, 102]}, "token_ids_unsupported", "send the text"),
        ({"inputs": ["a", None]}, "text_not_a_string", "Item 1: "),
        ({"inputs": [{"image": "https://example.com/a.jpg"}]}, "text_not_a_string", "string"),
        ({"inputs": "a", "normalize": "no"}, "body_invalid", "$.normalize"),
        ({"inputs": "a", "prompt_name": "query"}, "prompt_unknown", "no prompts"),
        ({"inputs": "a", "truncation_direction": "Up"}, "body_invalid", "Left"),
        ({"inputs": ["a"] * 257}, "too_many_items", "256"),
    ],
)
def test_what_is_refused(gateway: Server, body: dict[str, Any], code: str, words: str) -> None:
    _is_validation(gateway.post("/embed", json=body), code, words)


def test_an_empty_list(gateway: Server) -> None:
    reply = gateway.post("/embed", json={"inputs": []})

    assert reply.status_code == 400
    assert (reply.json().keys(), reply.json()["error_type"]) == ({"error", "error_type"}, "Empty")


def test_every_error_has_the_two_keys(gateway: Server, texts_only: Server) -> None:
    replies = {
        400: gateway.post("/embed", data=b"{", headers={"Content-Type": "application/json"}),
        401: texts_only.post("/embed", json={"inputs": "a"}),
        405: gateway.get("/embed"),
        413: gateway.post("/embed", json={"inputs": "a" * 10_001}),
        415: gateway.post("/embed", data=b"a", headers={"Content-Type": "text/plain"}),
    }

    for status, reply in replies.items():
        assert reply.status_code == status
        assert isinstance(reply.json().pop("error"), str)
        assert reply.json()["error_type"] == "Validation"
        assert reply.json().keys() == {"error", "error_type"}


def test_thirty_two_texts_are_accepted_whatever_the_limit_of_items(texts_only: Server) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    info = texts_only.get("/info", headers=headers).json()

    assert info["max_client_batch_size"] == 32
    assert texts_only.post("/embed", json={"inputs": ["a"] * 32}, headers=headers).status_code == 200
    assert texts_only.post("/embed", json={"inputs": ["a"] * 33}, headers=headers).status_code == 422


def test_info(gateway: Server) -> None:
    info = gateway.get("/info").json()

    assert info == {
        "model_id": "demo",
        "model_sha": model().manifest.space,
        "model_dtype": "int8",
        "served_model_name": "demo",
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": 65,
        "max_input_length": CONTEXT_LENGTH,
        "max_batch_tokens": CONTEXT_LENGTH * 32,
        "max_batch_requests": 32,
        "max_client_batch_size": 256,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": info["version"],
        "sha": None,
        "docker_label": None,
    }


def test_info_of_a_model_for_pictures(tmp_path: Path, log: Path) -> None:
    folder = copy_model(tmp_path / "pictures", towers=("image",))

    with serving("gateway", log, MODEL=str(folder)) as server:
        reply = server.get("/info")

    assert (reply.status_code, error_code(reply)) == (400, "tower_missing")
    assert reply.json()["error_type"] == "Validation"


def _is_validation(reply: Any, code: str, words: str) -> None:
    assert (reply.status_code, error_code(reply)) == (422, code), reply.text
    assert reply.json() == {"error": reply.json()["error"], "error_type": "Validation"}
    assert words in reply.json()["error"]
