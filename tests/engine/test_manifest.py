"""The manifest: what is written reads back; what is damaged is refused with a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_embeddings.config import MODEL_CACHE
from clip_embeddings.engine.manifest import (
    ModelError,
    from_json,
    load_manifest,
    locate,
    sha256_of,
    slug,
    to_json,
)
from tests.support.models import BAKED, copy_model

DEMO = MODEL_CACHE / "demo"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in BAKED:
        shutil.copy(DEMO / name, folder / name)
    return folder


def test_what_is_written_reads_back() -> None:
    manifest = load_manifest(DEMO)

    assert from_json(to_json(manifest)) == manifest


def test_every_file_is_listed_with_its_size_and_hash() -> None:
    manifest = load_manifest(DEMO, ("text", "image"))

    files = [file for tower in manifest.towers.values() for file in tower.files]
    assert {file.path for file in files} == set(BAKED) - {"manifest.json"}
    for file in files:
        assert (DEMO / file.path).stat().st_size == file.bytes
        assert sha256_of(DEMO / file.path) == file.sha256


def test_a_tower_that_is_not_needed_may_be_absent(copy: Path) -> None:
    (copy / "image.onnx").unlink()

    load_manifest(copy, ("text",))

    with pytest.raises(ModelError, match=r"image\.onnx is missing"):
        load_manifest(copy, ("text", "image"))


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "manifest.json").read_text())
        change(data)
        (folder / "manifest.json").write_text(json.dumps(data))

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "Bake one with"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "cannot be read"),
        (_edit(lambda data: data.update(format=99)), "another version"),
        (_edit(lambda data: data.pop("space")), "cannot be read"),
        (_edit(lambda data: data["towers"].pop("text")), "has no text tower"),
        (
            _edit(lambda data: data["towers"]["text"]["files"][0].update(path="../x")),
            "leaves the model's folder",
        ),
        (lambda folder: (folder / "text.onnx").unlink(), "text.onnx is missing"),
        (lambda folder: (folder / "text.onnx").write_bytes(b"version https://git-lfs"), "Git LFS"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b""), "0 bytes"),
    ],
)
def test_damage_is_refused_with_a_sentence(
    copy: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(copy)

    with pytest.raises(ModelError) as caught:
        load_manifest(copy, ("text", "image"))

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
def test_a_name_becomes_one_folder(name: str, folder: str) -> None:
    assert slug(name) == folder


def test_a_model_is_found_by_its_alias(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    baked = copy_model(tmp_path / "vit-b-32", aliases=["clip-ViT-B-32"])

    assert locate("vit-b-32", tmp_path) == locate("Clip-ViT-B-32", tmp_path) == baked
    assert locate("another", tmp_path) == tmp_path / "another"
    assert locate(str(baked), Path("elsewhere")) == baked
