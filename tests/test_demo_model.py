"""The quality of the bundled model: texts find their emoji, pictures their names; canonical vectors."""

from __future__ import annotations

import io
import json
from functools import cache

import numpy as np
import pytest
from PIL import Image

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.engine.zero_shot import DEFAULT_TEMPLATE, probabilities, prompts
from clip_embeddings.paths import MODEL_CACHE
from model_cache.demo.calibrate import fit_scale
from model_cache.demo.emoji_sheet import Emoji, load_emoji_sheet
from tests.support.vectors import model, raw_texts

DEMO = MODEL_CACHE / "demo"

# The first values of two vectors of the bundled model, float32, of inputs that need no decoding.
CANONICAL_TEXT = ("a birthday cake", [0.007, 0.1144, 0.0412, 0.0601, -0.1455, -0.0108])
CANONICAL_IMAGE = [0.1493, 0.0759, 0.0228, 0.1043, -0.1743, -0.0634]


@cache
def all_emoji() -> list[Emoji]:
    return load_emoji_sheet()


def embed(*images: Image.Image) -> np.ndarray:
    tower = model().image.get()
    return normalize_rows(tower.embed([tower.pixels(image) for image in images]))


@cache
def image_vectors() -> np.ndarray:
    return embed(*(emoji.image for emoji in all_emoji()))


@cache
def name_vectors() -> np.ndarray:
    return normalize_rows(raw_texts(*(emoji.name for emoji in all_emoji())))


def recall(queries: np.ndarray, answers: np.ndarray, k: int) -> float:
    """The share of rows i of `queries` for which row i of `answers` is among the first k."""
    scores = queries @ answers.T
    correct = np.diag(scores)[:, None]
    return float(((scores > correct).sum(axis=1) < k).mean())


def best(query: np.ndarray, answers: np.ndarray) -> Emoji:
    return all_emoji()[int((answers @ query).argmax())]


def test_the_bundle_is_small() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

    assert sum(path.stat().st_size for path in files) < 16_000_000


def test_names_find_their_emoji() -> None:
    assert len(all_emoji()) >= 1500
    assert recall(name_vectors(), image_vectors(), 1) >= 0.85
    assert recall(name_vectors(), image_vectors(), 5) >= 0.97


def test_pictures_find_their_names() -> None:
    assert recall(image_vectors(), name_vectors(), 1) >= 0.75
    assert recall(image_vectors(), name_vectors(), 5) >= 0.95


@pytest.mark.parametrize("text", ["birthday cake", "a photo of a birthday cake", "BIRTHDAY CAKE"])
def test_birthday_cake_finds_the_cake(text: str) -> None:
    (query,) = normalize_rows(raw_texts(text))

    assert best(query, image_vectors()).name == "birthday cake"


@pytest.mark.parametrize("name", ["birthday cake", "cat face", "fire engine"])
def test_the_pictures_of_the_readme_find_their_names(name: str) -> None:
    path = DEMO / "pictures" / f"{name.replace(' ', '-')}.png"

    (query,) = embed(Image.open(path))

    assert best(query, name_vectors()).name == name


@pytest.mark.parametrize("change", ["jpeg", "larger", "smaller"])
def test_a_changed_picture_is_still_closest_to_its_original(change: str) -> None:
    sample = all_emoji()[::7]

    changed = embed(*(_changed(emoji.image, change) for emoji in sample))

    is_closest = (changed @ image_vectors().T).argmax(axis=1) == np.arange(0, len(all_emoji()), 7)
    assert is_closest.mean() >= 0.95


def test_canonical_vectors() -> None:
    text, values = CANONICAL_TEXT
    (vector,) = normalize_rows(raw_texts(text))
    np.testing.assert_allclose(vector[: len(values)], values, atol=0.005)

    pattern = np.add.outer(np.arange(64) * 3, np.arange(64)).astype(np.uint8)
    (vector,) = embed(Image.fromarray(np.stack([pattern, pattern.T, 255 - pattern], axis=-1)))
    np.testing.assert_allclose(vector[: len(CANONICAL_IMAGE)], CANONICAL_IMAGE, atol=0.005)


def test_the_manifest_has_the_figures_of_the_bake() -> None:
    towers = json.loads((DEMO / "manifest.json").read_text())["towers"]

    for tower in towers.values():
        assert tower["precision"] == "int8"
        assert tower["parity"]["fp32"]["min_cosine"] >= 0.99999
        assert tower["parity"]["int8"]["min_cosine"] >= 0.99


def test_the_scale_of_probabilities_is_the_calibrated_one() -> None:
    """A hundredth apart, for CPUs whose int8 arithmetic differs in the last digits."""
    texts = [prompt for emoji in all_emoji() for prompt in prompts(emoji.name, [DEFAULT_TEMPLATE])]
    cosines = image_vectors() @ normalize_rows(raw_texts(*texts)).T

    scale = fit_scale(cosines)

    assert model().manifest.logit_scale == pytest.approx(scale, rel=0.01)
    confidence, right = _confidence(cosines, scale)
    assert abs(confidence - right) <= 0.02
    # It is the most likely one: a little more or less is worse.
    own = np.arange(len(cosines))
    likelihoods = [
        np.log(probabilities(cosines, scale * factor)[own, own]).mean() for factor in (0.9, 1.0, 1.1)
    ]
    assert max(likelihoods) == likelihoods[1]


def _confidence(cosines: np.ndarray, scale: float) -> tuple[float, float]:
    """The mean of the highest probabilities, and the share of rows whose own column has it."""
    table = probabilities(cosines, scale)
    return float(table.max(axis=1).mean()), float((table.argmax(axis=1) == np.arange(len(table))).mean())


def _changed(image: Image.Image, change: str) -> Image.Image:
    if change == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        return Image.open(file)
    side = 150 if change == "larger" else 48
    return image.resize((side, side), Image.Resampling.BICUBIC)
