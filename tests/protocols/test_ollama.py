"""Ollama's protocol as its Python client and its documentation speak it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.support.serving import Server, error_code
from tests.support.vectors import assert_texts, model

LONG = "cat " * 300


def _embed(server: Server, **body: Any) -> requests.Response:
    return server.post("/api/embed", json={"model": "demo", **body})


def _error(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    return str(reply.json()["error"])


@pytest.mark.parametrize("texts", ["a cat", ["a cat"], ["a cat", "a cup of coffee", ""]])
def test_texts(gateway: Server, texts: str | list[str]) -> None:
    reply = _embed(gateway, input=texts, keep_alive="5m", options={"num_ctx": 2048}).json()

    expected = [texts] if isinstance(texts, str) else texts
    assert set(reply) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert_texts(reply["embeddings"], *expected)
    assert reply["prompt_eval_count"] == sum(model().text.get().embed(expected).token_counts)
    assert type(reply["total_duration"]) is type(reply["load_duration"]) is int
    # Nanoseconds: no run takes less than a microsecond, or more than a minute.
    assert 1_000 < reply["total_duration"] < 60_000_000_000


@pytest.mark.parametrize("nothing", ["", [], None])
def test_no_text_gives_no_vector(gateway: Server, nothing: Any) -> None:
    assert _embed(gateway, input=nothing).json()["embeddings"] == []


def test_the_model_in_the_reply_is_the_name_in_the_request(gateway: Server) -> None:
    reply = _embed(gateway, model="demo:latest", input="a cat").json()

    assert reply["model"] == "demo:latest"
    assert_texts(reply["embeddings"], "a cat")


def test_json_that_curl_calls_a_form_is_read(gateway: Server) -> None:
    reply = gateway.post(
        "/api/embed",
        data=json.dumps({"model": "demo", "input": "a cat"}),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert_texts(reply.json()["embeddings"], "a cat")


def test_a_long_text_is_cut_or_refused(gateway: Server) -> None:
    assert_texts(_embed(gateway, input=LONG).json()["embeddings"], LONG)
    assert _embed(gateway, input=LONG, truncate=True).headers["Embedding-Truncated"] == "0"

    reply = _embed(gateway, input=["a cat", LONG], truncate=False)

    assert _error(reply, 400).startswith("Item 1: ")
    assert error_code(reply) == "text_over_context"
    assert "model;" not in reply.headers["Server-Timing"]
    assert_texts(_embed(gateway, input="a cat", truncate=False).json()["embeddings"], "a cat")


def test_dimensions(gateway: Server) -> None:
    own = model().manifest.dimensions
    assert_texts(_embed(gateway, input="a cat", dimensions=own).json()["embeddings"], "a cat")

    assert str(own) in _error(_embed(gateway, input="a cat", dimensions=own // 2), 400)


@pytest.mark.parametrize("bad", [5, 0, True, False, {}, [5], {"text": "a cat"}, ["a cat", None]])
def test_an_input_that_is_no_text_is_refused(gateway: Server, bad: Any) -> None:
    _error(_embed(gateway, input=bad), 400)


def test_an_unknown_model(gateway: Server) -> None:
    assert "none" in _error(_embed(gateway, model="none", input="a cat"), 404)


def test_older_clients(gateway: Server) -> None:
    reply = gateway.post("/api/embeddings", json={"model": "demo", "prompt": "a cat"}).json()

    assert set(reply) == {"embedding"}
    assert_texts([reply["embedding"]], "a cat")
    assert gateway.post("/api/embeddings", json={"model": "demo"}).json() == {"embedding": []}


def test_tags_and_version(gateway: Server) -> None:
    (entry,) = gateway.get("/api/tags").json()["models"]

    assert entry["name"] == entry["model"] == "demo"
    assert entry["size"] > 0
    assert isinstance(gateway.get("/api/version").json()["version"], str)


def test_an_unknown_path_beside_it_keeps_the_jobs_errors(gateway: Server) -> None:
    assert set(gateway.get("/api/none").json()) == {"detail"}
    _error(gateway.get("/api/embed"), 405)
