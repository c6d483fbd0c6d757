"""The engine with the bundled model: batches, normalization, canaries, damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.engine.canary import IMAGE, canary_image
from clip_embeddings.engine.manifest import (
    BYTE_PAIR_TOKENIZER,
    LIBRARY_TOKENIZER,
    ModelError,
    sha256_of,
)
from clip_embeddings.engine.model import Model, load_model, normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.engine.session import run_session
from model_cache.baking.tokenizer_file import clip_library_file
from model_cache.baking.torch_setup import import_open_clip
from tests.support.models import DEMO, copy_demo, edit_manifest, flip_a_byte

PIXELS = np.zeros((3, 64, 64), np.float32)
TEXTS = ["a cat", "", "a very long caption about a birthday cake on a table " * 9, "dog", "two red hearts"]


@pytest.fixture(scope="module")
def model() -> Model:
    return _load(DEMO)


def _load(folder: Path) -> Model:
    return load_model(folder, ("text", "image"), scheduler=Scheduler(2, 64))


def test_texts_in_a_batch_get_the_vectors_of_single_texts(model: Model) -> None:
    texts = TEXTS * 20
    tower = model.text.get()

    batch = tower.embed(texts).vectors

    separate = np.concatenate([tower.embed([text]).vectors for text in TEXTS])
    assert batch.shape == (100, model.manifest.dimensions)
    assert batch.dtype == np.float32
    cosines = (normalize_rows(batch) * np.tile(normalize_rows(separate), (20, 1))).sum(axis=1)
    assert cosines.min() > 0.99999


def test_long_texts_do_not_pad_short_ones(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 64 texts of mixed lengths hold few padding tokens, and the vectors stay the same."""
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(["cat", "dog", "red"], size)) for size in rng.integers(1, 74, 64)]
    tower = model.text.get()
    separate = np.concatenate([tower.embed([text]).vectors for text in texts])
    sizes: list[int] = []

    def record_size(session: Any, batch: np.ndarray) -> np.ndarray:
        sizes.append(batch.size)
        return run_session(session, batch)

    monkeypatch.setattr("clip_embeddings.engine.model.run_session", record_size)
    batched = tower.embed(texts).vectors

    tokens = sum(len(text.split()) + 2 for text in texts)
    assert tokens <= sum(sizes) <= 1.3 * tokens
    assert len(sizes) < 32
    assert np.abs(normalize_rows(batched) - normalize_rows(separate)).max() <= 1e-5


def test_long_texts_are_reported_as_truncated(model: Model) -> None:
    assert model.text.get().embed(TEXTS).truncated == [2]


def test_images_in_a_batch_get_the_vectors_of_single_images(model: Model) -> None:
    tower = model.image.get()
    pixels = [
        tower.pixels(Image.new("RGB", (50 + step, 40), (step * 9, 255 - step * 9, 128))) for step in range(20)
    ]

    batch = tower.embed(pixels)

    separate = np.concatenate([tower.embed([tensor]) for tensor in pixels])
    assert batch.shape == (20, model.manifest.dimensions)
    cosines = (normalize_rows(batch) * normalize_rows(separate)).sum(axis=1)
    assert cosines.min() > 0.99999


def test_normalized_rows_have_length_one_and_a_zero_row_stays_zero() -> None:
    vectors = normalize_rows(np.array([[3, 4], [0, 0]], np.float32))

    np.testing.assert_allclose(vectors, np.array([[0.6, 0.8], [0, 0]]), rtol=1e-6)
    assert vectors.dtype == np.float32


def test_the_canary_image_is_the_same_on_every_machine() -> None:
    pixels = np.asarray(canary_image(IMAGE), np.int64)

    assert pixels.shape == (240, 320, 3)
    assert pixels.sum(axis=(0, 1)).tolist() == [9821440, 9769472, 9689600]


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_tower_that_reproduces_its_canary_works(model: Model, name: str) -> None:
    assert model.tower(name).get().canary.get()


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_tower_that_does_not_reproduce_its_canary_gives_no_vector(tmp_path: Path, name: str) -> None:
    folder = copy_demo(tmp_path / "model")

    def roll_canary(manifest: Any) -> None:
        canary = manifest["towers"][name]["canary"]
        canary["vector"] = [*canary["vector"][1:], canary["vector"][0]]

    edit_manifest(folder, roll_canary)
    model = _load(folder)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"{name} tower of model does not work on this CPU"):
            model.text.get().embed(["a"]) if name == "text" else model.image.get().embed([PIXELS])


def test_a_model_with_the_tokenizer_of_an_earlier_version_gives_the_same_vectors(
    model: Model, tmp_path: Path
) -> None:
    folder = copy_demo(tmp_path / "model")
    (folder / BYTE_PAIR_TOKENIZER).unlink()
    path = folder / LIBRARY_TOKENIZER
    path.write_text(clip_library_file(import_open_clip().SimpleTokenizer()))

    def replace_file(manifest: Any) -> None:
        file = next(
            file for file in manifest["towers"]["text"]["files"] if file["path"] == BYTE_PAIR_TOKENIZER
        )
        file.update(path=LIBRARY_TOKENIZER, bytes=path.stat().st_size, sha256=sha256_of(path))

    edit_manifest(folder, replace_file)
    earlier = _load(folder)

    earlier.tower("text").get().canary.get()
    assert np.array_equal(earlier.text.get().embed(TEXTS).vectors, model.text.get().embed(TEXTS).vectors)


@pytest.mark.parametrize("name", ["text.onnx", "text.data", "tokenizer.bpe"])
def test_a_flipped_byte_is_detected_while_loading(tmp_path: Path, name: str) -> None:
    folder = copy_demo(tmp_path / "model")
    flip_a_byte(folder / name)
    model = load_model(folder, ("text",), scheduler=Scheduler(2, 64), verify_first=True)

    with pytest.raises(ModelError, match="is damaged"):
        model.text.get()
