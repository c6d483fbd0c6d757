"""Zero-shot classification over HTTP: probabilities, labels that are wrong, and what is kept of labels."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from clip_embeddings.engine.zero_shot import NEUTRAL_LABELS
from model_cache.demo.emoji_sheet import load_emoji_sheet
from tests.support.emoji_categories import CATEGORIES
from tests.support.models import copy_model
from tests.support.pictures import data_uri, in_base64, picture, web
from tests.support.serving import Server, error_code, error_message, provenance, serving
from tests.support.vectors import model

CAT, ROCKET, COFFEE = (picture(name) for name in ("chelsea", "rocket", "coffee"))
LABELS = ["cat", "rocket", "cup of coffee", "birthday cake"]
TEMPLATES = ["a photo of a {}.", "{}"]
BIAS = -9.5


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`embed_mixed` with the bundled model, and with others that it may become."""
    folder = tmp_path_factory.mktemp("models")
    models = [
        copy_model(folder / "with-bias", logit_scale=23.5, logit_bias=BIAS),
        copy_model(folder / "without-scale", logit_scale=None),
        copy_model(folder / "pictures-only", towers=("image",)),
    ]
    names = ",".join(map(str, models))
    with serving("embed_mixed", folder / "log", MODEL="demo", MODELS=names, MAX_ITEMS="64") as server:
        yield server


def _ask(server: Server, **body: Any) -> Any:
    reply = server.post("/classify", json={"images": [in_base64(CAT)], "labels": LABELS, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def _table(results: list[list[dict[str, Any]]], labels: list[str]) -> np.ndarray:
    """Probabilities in the order of `labels`; asserts that each picture's are sorted."""
    for row in results:
        values = [entry["probability"] for entry in row]
        assert values == sorted(values, reverse=True)
    by_label = [{entry["label"]: entry["probability"] for entry in row} for row in results]
    return np.array([[row[label] for label in labels] for row in by_label])


def _cosines(server: Server, labels: list[str], templates: list[str]) -> torch.Tensor:
    """Cosines of CAT, ROCKET and COFFEE with labels, from vectors of the server, in float32 and torch."""
    texts = [template.replace("{}", label) for label in labels for template in templates]
    images = [in_base64(data) for data in (CAT, ROCKET, COFFEE)]
    prompts = torch.tensor(server.post("/embed/mixed", json={"texts": texts}).json()["text_embeddings"])
    reply = server.post("/embed/mixed", json={"images": images}).json()
    mean = prompts.reshape(len(labels), len(templates), -1).mean(dim=1)
    return torch.tensor(reply["image_embeddings"]) @ torch.nn.functional.normalize(mean, dim=-1).T


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES])
def test_probabilities_are_those_of_the_reference_formulas(classifier: Server, templates: list[str]) -> None:
    cosines = _cosines(classifier, LABELS, templates)
    neutral = _cosines(classifier, list(NEUTRAL_LABELS), templates)
    scale = model().manifest.logit_scale
    assert scale is not None
    images = [in_base64(data) for data in (CAT, ROCKET, COFFEE)]
    logits, neutral_logits = scale * cosines, scale * neutral
    binary = torch.stack(
        [torch.sigmoid(logits - column[:, None]) for column in neutral_logits.T], dim=-1
    )  # softmax of two
    expected = {
        ("demo", None): logits.softmax(dim=-1),
        ("demo", False): logits.softmax(dim=-1),
        ("demo", True): binary.min(dim=-1).values,
        ("with-bias", None): torch.sigmoid(23.5 * cosines + BIAS),
        ("with-bias", True): torch.sigmoid(23.5 * cosines + BIAS),
        ("with-bias", False): (23.5 * cosines + BIAS).softmax(dim=-1),
    }

    for (name, multi_label), reference in expected.items():
        body = {"images": images, "templates": templates, "model": name, "multi_label": multi_label}
        reply = _ask(classifier, **body)

        assert np.abs(_table(reply["results"], LABELS) - reference.numpy()).max() <= 1e-5
        assert reply["multi_label"] is (name == "with-bias" if multi_label is None else multi_label)


def test_emoji_are_found_in_their_categories(classifier: Server) -> None:
    sheet = {emoji.char.replace("\ufe0f", ""): emoji.image for emoji in load_emoji_sheet()}
    rows = [(sheet[char], label) for label, chars in CATEGORIES.items() for char in chars]
    hits = []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        files = []
        for image, _ in part:
            file = io.BytesIO()
            image.save(file, "PNG")
            files.append(in_base64(file.getvalue()))
        reply = _ask(classifier, images=files, labels=list(CATEGORIES), top_k=1)
        hits += [row[0]["label"] == label for row, (_, label) in zip(reply["results"], part, strict=True)]

    assert len(rows) >= 400
    # Measured: eleven times chance.
    assert np.mean(hits) >= 3 / len(CATEGORIES), np.mean(hits)


def test_pictures_come_in_every_form_and_one_that_fails_costs_no_other(gateway: Server) -> None:
    with web({"/cat": CAT}) as site:
        images = [f"{site}/cat", data_uri(CAT), in_base64(CAT), "gs://elsewhere/cat.jpg", in_base64(b"no")]
        reply = gateway.post("/classify", json={"images": [*images, 7], "labels": LABELS, "top_k": 2})
    body = reply.json()

    rows = body["results"]
    assert reply.status_code == 200
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 2
    assert rows[3:] == [[], [], []]
    errors = [(error["input"], error["index"], error["code"]) for error in body["errors"]]
    assert errors == [
        ("images", 3, "bucket_forbidden"),
        ("images", 4, "image_unsupported"),
        ("images", 5, "image_not_a_string"),
    ]
    assert body["model"] == "demo"
    assert body["space"] == model().manifest.space
    assert body["fingerprint"].keys() == {"text", "image"}
    assert provenance(reply)["fingerprint"].startswith("text=")


def test_a_picture_may_be_the_file_of_a_form(gateway: Server) -> None:
    expected = _ask(gateway, top_k=2, templates=TEMPLATES)["results"]
    fields = {"templates": json.dumps(TEMPLATES), "top_k": "2"}

    for name, labels in (("image", ", ".join(LABELS)), ("file", json.dumps(LABELS))):
        reply = gateway.post("/classify", files={name: CAT}, data={"labels": labels, **fields})
        assert reply.status_code == 200, reply.text
        assert reply.json()["results"] == expected


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "field_missing"),
        ({"labels": "cat,,dog"}, "label_empty"),
        ({"labels": '["cat"'}, "json_invalid"),
        ({"labels": "cat", "top_k": "many"}, "form_invalid"),
        ({"labels": "cat", "templates": "no place"}, "template_invalid"),
    ],
)
def test_a_form_that_is_refused(gateway: Server, fields: dict[str, str], code: str) -> None:
    reply = gateway.post("/classify", files={"image": CAT}, data=fields)

    assert (reply.status_code, error_code(reply)) == (400, code), reply.text
    assert error_code(gateway.post("/classify", files={"other": CAT}, data=fields)) == "field_missing"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"labels": None}, 400, "body_invalid", "$.labels"),
        ({"labels": []}, 400, "body_invalid", "$.labels"),
        ({"images": []}, 400, "body_invalid", "$.images"),
        ({"labels": ["cat", 5]}, 400, "text_not_a_string", "`labels[1]`"),
        ({"labels": ["cat", " "]}, 400, "label_empty", "`labels[1]`"),
        ({"labels": ["cat", "dog", "cat "]}, 400, "label_repeated", "`labels[2]` is the same as `labels[0]`"),
        # The model reads two words, and the reply would repeat all of it for each picture.
        ({"labels": ["cat", f"a{' ' * 255}b"]}, 413, "text_too_long", "257 characters; 256 are allowed"),
        ({"templates": []}, 400, "list_missing", "`templates`"),
        ({"templates": ["{}", "a photo"]}, 400, "template_invalid", "`templates[1]`"),
        ({"labels": ["cat", "a " * 100]}, 400, "text_over_context", "`labels[1]`"),
        ({"labels": ["cat", "x" * 250], "templates": ["{} " * 41]}, 413, "text_too_long", "`labels[1]`"),
        ({"top_k": 0}, 400, "body_invalid", "$.top_k"),
        ({"multi_label": "yes"}, 400, "body_invalid", "$.multi_label"),
        ({"model": "nobody"}, 404, "model_unknown", "demo"),
        ({"model": "without-scale"}, 400, "scale_missing", "Bake it again"),
        ({"model": "pictures-only"}, 400, "tower_missing", "text tower"),
        ({"labels": [f"label {n}" for n in range(65)]}, 413, "too_many_items", "65 prompts; 64 are"),
        (
            {"labels": [f"label {n}" for n in range(33)], "templates": TEMPLATES},
            413,
            "too_many_items",
            "66 prompts",
        ),
        ({"images": ["a"] * 65}, 413, "too_many_items", "64"),
    ],
)
def test_what_is_refused(
    classifier: Server, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    request = {"images": [in_base64(CAT)], "labels": LABELS, **body}

    reply = classifier.post("/classify", json=request)

    assert (reply.status_code, error_code(reply)) == (status, code), reply.text
    assert words in error_message(reply)


def test_labels_that_were_seen_cost_no_text_run(classifier: Server) -> None:
    labels = ["a label of this test", "another one"]

    first = classifier.post("/classify", json={"images": [in_base64(CAT)], "labels": labels})
    again = classifier.post("/classify", json={"images": [in_base64(ROCKET)], "labels": labels[::-1]})
    more = classifier.post("/classify", json={"images": [in_base64(CAT)], "labels": [*labels, "a third"]})

    stages = [reply.headers["Server-Timing"] for reply in (first, again, more)]
    assert ["labels;" in stage for stage in stages] == [True, False, True]
    assert all("model;" in stage for stage in stages)
    repeated = classifier.post("/classify", json={"images": [in_base64(CAT)], "labels": labels}).json()
    assert repeated["results"] == first.json()["results"]


def test_many_threads_may_ask_at_once(classifier: Server) -> None:
    bodies = [
        {"images": [in_base64(CAT)], "labels": [f"label {(thread * 7 + n) % 40} at once" for n in range(20)]}
        for thread in range(12)
    ]
    replies: dict[int, Any] = {}

    def post(number: int) -> None:
        replies[number] = classifier.post("/classify", json=bodies[number])

    threads = [threading.Thread(target=post, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, body in enumerate(bodies):
        assert replies[number].status_code == 200, replies[number].text
        alone = classifier.post("/classify", json=body).json()["results"]
        labels = [str(label) for label in body["labels"]]
        together = _table(replies[number].json()["results"], labels)
        assert np.abs(together - _table(alone, labels)).max() <= 1e-5


def test_a_function_for_texts_does_not_serve_it(log: Any) -> None:
    with serving("embed_text", log) as server:
        assert server.post("/classify", json={"images": ["a"], "labels": ["b"]}).status_code == 404
