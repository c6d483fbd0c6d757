"""The manifest: what is written reads back, and damage is refused with a sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip_embeddings.engine.manifest import (
    ModelError,
    find_model_folder,
    from_json,
    load_manifest,
    sha256_of,
    slug,
    to_json,
)
from tests.support.models import DEMO, MODEL_FILES, copy_demo, copy_model, edit_manifest

SCALE = ("logit_scale", "logit_bias")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return copy_demo(tmp_path / "model")


def test_a_written_manifest_reads_back_equal() -> None:
    manifest = load_manifest(DEMO)

    assert from_json(to_json(manifest)) == manifest


def test_a_manifest_of_an_earlier_version_has_no_scale(model_folder: Path) -> None:
    edit_manifest(model_folder, lambda data: [data.pop(name, None) for name in SCALE])

    manifest = load_manifest(model_folder)

    assert (manifest.logit_scale, manifest.logit_bias) == (None, None)


def test_scale_and_bias_are_read_and_change_no_fingerprint_and_no_space(tmp_path: Path) -> None:
    folder = copy_model(tmp_path / "siglip", logit_scale=117, logit_bias=-12.5)

    manifest = load_manifest(folder)

    assert (manifest.logit_scale, manifest.logit_bias) == (117.0, -12.5)
    assert from_json(to_json(manifest)) == manifest
    fingerprints = {name: tower.fingerprint for name, tower in manifest.towers.items()}
    # Those of the bundled model before manifests had a scale: indexes made then stay valid.
    assert fingerprints == {"text": "93bad5530b74aebf", "image": "50d3209ca8863bdc"}
    assert manifest.space == "f2c82a97a191562e"


def test_every_file_is_listed_with_its_size_and_hash() -> None:
    manifest = load_manifest(DEMO, ("text", "image"))

    files = [file for tower in manifest.towers.values() for file in tower.files]
    assert {file.path for file in files} == set(MODEL_FILES) - {"manifest.json"}
    for file in files:
        assert (DEMO / file.path).stat().st_size == file.bytes
        assert sha256_of(DEMO / file.path) == file.sha256


def test_the_files_of_a_tower_that_is_not_needed_may_be_absent(model_folder: Path) -> None:
    (model_folder / "image.onnx").unlink()

    load_manifest(model_folder, ("text",))

    with pytest.raises(ModelError, match=r"image\.onnx is missing"):
        load_manifest(model_folder, ("text", "image"))


def _edit(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda folder: edit_manifest(folder, change)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "Bake one with"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "cannot be read"),
        (_edit(lambda data: data.update(format=99)), "another version"),
        (_edit(lambda data: data.pop("space")), "cannot be read"),
        (_edit(lambda data: data.update(logit_scale="much")), "cannot be read"),
        (_edit(lambda data: data.update(logit_bias=float("nan"))), "cannot be read"),
        (_edit(lambda data: data["towers"].pop("text")), "has no text tower"),
        (
            _edit(lambda data: data["towers"]["text"]["files"][0].update(path="../x")),
            "leaves the model's folder",
        ),
        (lambda folder: (folder / "text.onnx").unlink(), "text.onnx is missing"),
        (lambda folder: (folder / "text.onnx").write_bytes(b"version https://git-lfs"), "Git LFS"),
        (lambda folder: (folder / "tokenizer.bpe").write_bytes(b""), "0 bytes"),
    ],
)
def test_a_damaged_model_is_refused_with_a_sentence(
    model_folder: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(model_folder)

    with pytest.raises(ModelError) as caught:
        load_manifest(model_folder, ("text", "image"))

    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ViT-B-32/laion400m_e32", "vit-b-32-laion400m-e32"),
        ("demo", "demo"),
        ("../../etc", "etc"),
        ("a b/C:D", "a-b-c-d"),
    ],
)
def test_a_name_becomes_the_name_of_one_folder(name: str, folder: str) -> None:
    assert slug(name) == folder


def test_a_model_is_located_by_name_alias_or_folder(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    folder = copy_model(tmp_path / "vit-b-32", aliases=["clip-ViT-B-32"])

    assert find_model_folder("vit-b-32", tmp_path) == find_model_folder("Clip-ViT-B-32", tmp_path) == folder
    renamed = folder.rename(tmp_path / "My Model")
    for name in ("my-model", "My Model", "vit-b-32", "clip-vit-b-32"):
        assert find_model_folder(name, tmp_path) == renamed
    folder = renamed.rename(folder)
    assert find_model_folder("another", tmp_path) == tmp_path / "another"
    assert find_model_folder(str(folder), Path("elsewhere")) == folder
