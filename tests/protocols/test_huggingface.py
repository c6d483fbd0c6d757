"""Hugging Face's zero-shot-image-classification: with its own client, and as its pipeline computes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient

from tests.support.models import copy_model
from tests.support.pictures import data_uri, in_base64, picture
from tests.support.serving import Server, error_code, serving
from tests.support.vectors import assert_texts, model

CAT = picture("chelsea")
LABELS = ["cat", "rocket", "cup of coffee"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`embed_mixed`, which answers at its root too, with the bundled model and one that has a bias."""
    folder = tmp_path_factory.mktemp("huggingface")
    other = copy_model(folder / "with-bias", logit_scale=23.5, logit_bias=-9.5)
    with serving("embed_mixed", folder / "log", MODEL="demo", MODELS=str(other)) as server:
        yield server


def _client(url: str) -> InferenceClient:
    # A token, so that the client does not look for one in the files of whoever runs the tests.
    return InferenceClient(model=url, token="unused")  # noqa: S106


def _post(server: Server, path: str = "/classify", **parameters: Any) -> Any:
    body = {"inputs": in_base64(CAT), "parameters": {"candidate_labels": LABELS, **parameters}}
    return server.post(path, json=body)


def test_its_own_client_is_answered_as_the_native_route_answers(
    root: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for path in ("/classify", "/", ""):
        labels = _client(root.url + path).zero_shot_image_classification(CAT, LABELS)

        body = {"images": [in_base64(CAT)], "labels": LABELS, "templates": ["This is a photo of {}."]}
        (expected,) = root.post("/classify", json=body).json()["results"]
        assert [label.label for label in labels] == [entry["label"] for entry in expected]
        assert [label.score for label in labels] == [entry["probability"] for entry in expected]


def test_its_own_client_may_choose_the_template_and_send_a_file(
    root: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = tmp_path / "cat.jpg"
    path.write_bytes(CAT)
    client = _client(root.url + "/classify")

    plain = client.zero_shot_image_classification(str(path), LABELS, hypothesis_template="{}")

    assert [dict(label) for label in plain] == _post(root, hypothesis_template="{}").json()
    assert [dict(label) for label in plain] != _post(root).json()


def test_the_scores_are_those_of_the_pipeline(root: Server) -> None:
    """A softmax, or a sigmoid where the model has a bias, as in transformers' postprocess."""
    texts = [f"This is a photo of {label}." for label in LABELS]
    body = root.post("/embed/mixed", json={"texts": texts, "images": [in_base64(CAT)]}).json()
    cosines = np.array(body["text_embeddings"], np.float64) @ np.array(body["image_embeddings"][0])
    scale = model().manifest.logit_scale
    assert scale is not None
    powers = np.exp(scale * cosines)

    softmax = {entry["label"]: entry["score"] for entry in _post(root).json()}
    sigmoid = {entry["label"]: entry["score"] for entry in _post(root, "/classify?model=with-bias").json()}

    np.testing.assert_allclose([softmax[label] for label in LABELS], powers / powers.sum(), atol=1e-5)
    expected = 1 / (1 + np.exp(9.5 - 23.5 * cosines))
    np.testing.assert_allclose([sigmoid[label] for label in LABELS], expected, atol=1e-5)


def test_what_older_clients_send(root: Server) -> None:
    """huggingface_hub of 2023 sent `image`, and the labels as one text."""
    body = {"image": in_base64(CAT), "parameters": {"candidate_labels": ",".join(LABELS)}}

    assert root.post("/", json=body).json() == _post(root).json()
    assert root.post("/", json={**body, "image": data_uri(CAT)}).json() == _post(root).json()


def test_texts_to_embed_are_told_apart_by_the_labels(root: Server) -> None:
    assert_texts(root.post("/", json={"inputs": ["a cat"]}).json(), "a cat")
    assert_texts(root.post("/", json={"inputs": ["a cat"], "parameters": {}}).json(), "a cat")
    assert _post(root, "/").json()[0].keys() == {"label", "score"}


def test_equal_labels_are_counted_as_they_come(root: Server) -> None:
    reply = _post(root, candidate_labels=["cat", "rocket", "cat"]).json()

    scores = {entry["label"]: entry["score"] for entry in reply}
    assert len(reply) == 3
    assert abs(2 * scores["cat"] + scores["rocket"] - 1) < 1e-5


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"inputs": None}, 400, "field_missing", "inputs"),
        ({"inputs": "no base64!"}, 400, "image_reference_invalid", "base64"),
        ({"inputs": in_base64(b"no picture")}, 422, "image_unsupported", ""),
        ({"parameters": {"candidate_labels": []}}, 400, "list_missing", "parameters.candidate_labels"),
        ({"parameters": {"candidate_labels": "a,,b"}}, 400, "label_empty", "parameters.candidate_labels[1]"),
        ({"parameters": {"candidate_labels": ["a", 1]}}, 400, "text_not_a_string", "candidate_labels[1]"),
        ({"parameters": {"candidate_labels": ["a", "b " * 99]}}, 400, "text_over_context", "labels[1]"),
        (
            {"parameters": {"candidate_labels": ["a"], "hypothesis_template": "no place"}},
            400,
            "template_invalid",
            "{}",
        ),
    ],
)
def test_what_is_refused(root: Server, body: dict[str, Any], status: int, code: str, words: str) -> None:
    request = {"inputs": in_base64(CAT), "parameters": {"candidate_labels": LABELS}, **body}

    reply = root.post("/classify", json=request)

    assert (reply.status_code, error_code(reply)) == (status, code), reply.text
    assert reply.json().keys() == {"error"}
    assert words in reply.json()["error"]
