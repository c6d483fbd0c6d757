"""Labels with their vectors: the file that carries them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_embeddings.engine.manifest import Manifest
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.errors import ConfigError
from clip_embeddings.label_settings import LABELS_FILE, LabelSettings
from clip_embeddings.photos.label_sets import (
    BACKGROUND,
    LabelSet,
    embed_labels,
    make_label_set,
    read_labels,
    write_labels,
)
from tests.support.vectors import model as demo
from tests.support.vectors import raw_texts

LABELS = ("cat", "birthday cake", "fire engine")
SETTINGS = LabelSettings(LABELS, ("a photo of a {}", "{} emoji"), 0.4)


def manifest(**changes: Any) -> Manifest:
    """The manifest of the bundled model, changed."""
    return replace(demo().manifest, **changes)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the file of LABELS."""
    label_set = make_label_set(SETTINGS, manifest())
    write_labels(label_set, embed_labels(label_set, demo().text.get()), tmp_path / LABELS_FILE)
    return tmp_path


def test_a_label_is_the_mean_of_its_templates_and_the_background_is_as_it_is() -> None:
    vectors = embed_labels(make_label_set(SETTINGS, manifest()), demo().text.get())

    assert vectors.shape == (len(LABELS) + len(BACKGROUND), 128)
    cat = normalize_rows(raw_texts("a photo of a cat", "cat emoji")).mean(axis=0)
    np.testing.assert_allclose(vectors[0], cat / np.linalg.norm(cat), atol=1e-3)
    np.testing.assert_allclose(vectors[len(LABELS) :], normalize_rows(raw_texts(*BACKGROUND)), atol=1e-3)


def test_the_file_gives_the_same_bits(written: Path) -> None:
    label_set = make_label_set(SETTINGS, manifest())

    read = read_labels(written, manifest())

    assert read is not None
    assert read[0] == label_set
    assert (read[1] == embed_labels(label_set, demo().text.get())).all()


def test_a_folder_without_labels(tmp_path: Path) -> None:
    assert read_labels(tmp_path, manifest()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (*LABELS, "dog")},
        {"labels": LABELS[::-1]},
        {"templates": ("{}",)},
        {"threshold": 0.41},
        {"background": ()},
        {"text_fingerprint": "another"},
        {"logit_scale": 99.0},
        {"logit_bias": -10.0},
    ],
)
def test_whatever_decides_the_labels_changes_their_identity(changes: dict[str, Any]) -> None:
    label_set = make_label_set(SETTINGS, manifest())
    fields = {name: getattr(label_set, name) for name in LabelSet.__struct_fields__}

    assert LabelSet(**fields).identity == label_set.identity
    assert LabelSet(**{**fields, **changes}).identity != label_set.identity


def test_a_model_whose_labels_are_independent_needs_no_background() -> None:
    label_set = make_label_set(SETTINGS, manifest(logit_bias=-16.5))

    assert (label_set.background, label_set.logit_bias) == ((), -16.5)
    assert len(embed_labels(label_set, demo().text.get())) == len(LABELS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logit_scale": None}, "has no logit_scale, which PHOTO_LABELS needs: bake the model again."),
        ({"towers": {}}, "has no text tower: it cannot embed PHOTO_LABELS."),
    ],
)
def test_a_model_that_cannot_classify(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_label_set(SETTINGS, manifest(**changes))

    assert str(caught.value).endswith(sentence)


def _other_text_tower(present: Manifest) -> Manifest:
    text = replace(present.towers["text"], fingerprint="another")
    return replace(present, towers={**present.towers, "text": text})


@pytest.mark.parametrize("change", [lambda present: replace(present, space="another"), _other_text_tower])
def test_labels_of_another_model_are_refused(change: Callable[[Manifest], Manifest], written: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_labels(written, change(manifest()))

    assert str(caught.value) == (
        f"{written / LABELS_FILE} has the labels of another model than demo: stage this function again."
    )


def _edit(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), key: value}).encode()


def _edit_set(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda data: _edit("labels", {**json.loads(data)["labels"], key: value})(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" + data,
        lambda data: b"[]",
        _edit("format", 2),
        _edit("vectors", "!!"),
        _edit("vectors", "AAAAAA=="),
        _edit("vectors", 7),
        _edit("sha256", "0" * 64),
        _edit("identity", "0" * 16),
        _edit_set("labels", ["cat"]),
        _edit_set("labels", "cat"),
        _edit_set("threshold", "high"),
        _edit_set("logit_scale", None),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(damage: Callable[[bytes], bytes], written: Path) -> None:
    path = written / LABELS_FILE
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ConfigError) as caught:
        read_labels(written, manifest())

    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert str(caught.value).endswith("): stage this function again.")


def test_vectors_of_another_length_or_number_are_refused(tmp_path: Path) -> None:
    label_set = make_label_set(SETTINGS, manifest())
    vectors = embed_labels(label_set, demo().text.get())
    path = tmp_path / LABELS_FILE
    for wrong in (2 * vectors, vectors[1:], vectors[:, :64], np.full_like(vectors, np.nan)):
        write_labels(label_set, wrong, path)

        with pytest.raises(ConfigError, match="cannot be read"):
            read_labels(tmp_path, manifest())


def test_the_default_threshold_is_that_of_the_kind_of_model() -> None:
    settings = SETTINGS._replace(threshold=None)

    assert make_label_set(settings, manifest()).threshold == 0.8
    assert make_label_set(settings, manifest(logit_bias=-16.5)).threshold == 0.2
