"""The engine on the bundled model: batching, normalising, canaries, damage."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.config import MODEL_CACHE
from clip_embeddings.engine.canary import IMAGE, canary_image
from clip_embeddings.engine.manifest import Canary, ModelError
from clip_embeddings.engine.model import Model, check_canary, load_model, normalize_rows
from clip_embeddings.engine.session import run_session
from clip_embeddings.semaphore import FairSemaphore
from tests.support.models import BAKED

TEXTS = ["a cat", "", "a very long caption about a birthday cake on a table " * 9, "dog", "two red hearts"]


@pytest.fixture(scope="module")
def model() -> Model:
    return _load(MODEL_CACHE / "demo")


def _load(folder: Path) -> Model:
    return load_model(folder, ("text", "image"), threads=2, run_slots=FairSemaphore(1, 64))


def test_a_batch_gives_the_vectors_of_its_items(model: Model) -> None:
    texts = TEXTS * 20
    tower = model.text.get()

    batch = tower.embed(texts).vectors

    alone = np.concatenate([tower.embed([text]).vectors for text in TEXTS])
    assert batch.shape == (100, model.manifest.dimensions)
    assert batch.dtype == np.float32
    cosines = (normalize_rows(batch) * np.tile(normalize_rows(alone), (20, 1))).sum(axis=1)
    assert cosines.min() > 0.99999


def test_long_texts_do_not_pad_short_ones(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 texts of mixed lengths: what runs is hardly more than their tokens, and the vectors are the same."""
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(["cat", "dog", "red"], size)) for size in rng.integers(1, 74, 64)]
    tower = model.text.get()
    alone = np.concatenate([tower.embed([text]).vectors for text in texts])
    sizes: list[int] = []

    def counting(session: Any, batch: np.ndarray) -> np.ndarray:
        sizes.append(batch.size)
        return run_session(session, batch)

    monkeypatch.setattr("clip_embeddings.engine.model.run_session", counting)
    together = tower.embed(texts).vectors

    tokens = sum(len(text.split()) + 2 for text in texts)
    assert tokens <= sum(sizes) <= 1.3 * tokens
    assert len(sizes) < 32
    assert np.abs(normalize_rows(together) - normalize_rows(alone)).max() <= 1e-5


def test_long_texts_are_reported_as_cut(model: Model) -> None:
    assert model.text.get().embed(TEXTS).truncated == [2]


def test_pictures_in_a_batch_equal_pictures_alone(model: Model) -> None:
    tower = model.image.get()
    pixels = [tower.pixels(Image.new("RGB", (50 + n, 40), (n * 9, 255 - n * 9, 128))) for n in range(20)]

    batch = tower.embed(pixels)

    alone = np.concatenate([tower.embed([one]) for one in pixels])
    assert batch.shape == (20, model.manifest.dimensions)
    cosines = (normalize_rows(batch) * normalize_rows(alone)).sum(axis=1)
    assert cosines.min() > 0.99999


def test_normalized_rows_have_length_one_and_zero_stays_zero() -> None:
    vectors = normalize_rows(np.array([[3, 4], [0, 0]], np.float32))

    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert vectors.dtype == np.float32


def test_the_canary_picture_never_changes() -> None:
    picture = np.asarray(canary_image(IMAGE), np.int64)

    assert picture.shape == (240, 320, 3)
    assert picture.sum(axis=(0, 1)).tolist() == [9821440, 9769472, 9689600]


@pytest.mark.parametrize("tower", ["text", "image"])
def test_the_canary_passes_and_a_wrong_one_does_not(model: Model, tower: str) -> None:
    check_canary(model, tower)

    entry = model.manifest.towers[tower]
    other = tuple(np.roll(entry.canary.vector, 1).tolist())
    towers = {**model.manifest.towers, tower: replace(entry, canary=Canary(entry.canary.input, other))}
    wrong = replace(model, manifest=replace(model.manifest, towers=towers))
    with pytest.raises(ModelError, match="does not work on this CPU"):
        check_canary(wrong, tower)


@pytest.mark.parametrize("name", ["text.onnx", "text.data", "tokenizer.json"])
def test_a_flipped_byte_is_found_while_loading(tmp_path: Path, name: str) -> None:
    for file in BAKED:
        shutil.copy(MODEL_CACHE / "demo" / file, tmp_path / file)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    damaged = _load(tmp_path)

    with pytest.raises(ModelError, match="is damaged"):
        damaged.text.get()
