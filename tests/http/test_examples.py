"""The replies in the OpenAPI document's examples are those that the demo model makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.http.reply_examples import FILE, NOTE, SHOWN
from tests.support.examples import cut, example_server, replies
from tests.support.serving import Server

# What differs from run to run, or with the machine and its packages.
VARIABLE = {
    "id",
    "fingerprint",
    "total_duration",
    "load_duration",
    "max_concurrent_requests",
    "tokenization_workers",
    "generation",
    "updated",
    "thumbnail",
    "cursor",
    "version",
}
# int8 rounds otherwise on other CPUs.
TOLERANCE = 0.02


def same(one: Any, other: Any) -> bool:
    """Whether two replies are alike, up to what may vary."""
    if isinstance(one, str) and one.startswith("["):
        return same(json.loads(one), json.loads(other))
    if isinstance(one, dict):
        kinds = (type(one[key]) is type(other.get(key)) for key in VARIABLE & one.keys())
        pairs = ((one[key], other.get(key)) for key in one.keys() - VARIABLE)
        return bool(one.keys() == other.keys()) and all(kinds) and all(same(*pair) for pair in pairs)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return bool(abs(one - other) <= TOLERANCE)
    return bool(one == other)


def test_replies_are_what_the_demo_model_answers(tmp_path: Path) -> None:
    with example_server(tmp_path) as server:
        kept, made = json.loads(FILE.read_bytes()), replies(server)

    wrong = sorted(
        name
        for name in kept.keys() | made.keys()
        if name not in kept or name not in made or not same(kept[name], made[name])
    )
    assert wrong == [], "write the file anew: .venv-test/bin/python -m tests.support.examples"


def test_the_document_shows_them(gateway: Server) -> None:
    document = gateway.get("/openapi.json").json()

    assert NOTE in document["info"]["description"]
    reply = document["paths"]["/embed/mixed"]["post"]["responses"]["200"]["content"]["application/json"]
    assert reply["example"]["text_embeddings"][0] == pytest.approx(
        gateway.post("/embed/text", json={"texts": ["birthday cake"]}).json()["embeddings"][0][:SHOWN],
        abs=TOLERANCE,
    )
    image = document["paths"]["/embed/image"]["post"]["responses"]["200"]["content"]["application/json"]
    assert set(image["examples"]) == {"embed_images", "embed_raw_image", "embed_image_file"}


def test_vectors_are_cut_wherever_they_are() -> None:
    long = [0.5] * (SHOWN + 1)

    assert cut({"a": [long, long], "b": "[0.5,0.5,0.5,0.5,0.5]", "c": ["x"] * 9}) == {
        "a": [[0.5] * SHOWN] * 2,
        "b": "[0.5,0.5,0.5,0.5]",
        "c": ["x"] * 9,
    }
