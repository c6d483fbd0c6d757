"""Baked float32 vectors against open_clip's tokenizer, preprocessing and model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from model_cache.baking import parity_samples
from tests.support.baking.tiny import (
    Tiny,
    engine_images,
    engine_texts,
    min_cosine,
    texts,
    torch_images,
    torch_texts,
)

SHORT = ["a cat", "", "two dogs on the beach", "😀"]
LONG = "a very long caption " * 30


def test_200_texts_have_the_vectors_of_open_clip(baked: Path, tiny: Tiny) -> None:
    items = texts()
    assert len(items) == 200

    ours, expected = engine_texts(baked, items), torch_texts("tiny", tiny.model, items)

    assert min_cosine(ours, expected) >= 0.99999
    # Shifted by one, the vectors differ: the comparison above distinguishes items.
    assert (ours * np.roll(expected, 1, axis=0)).sum(axis=1).mean() < 0.99


def test_50_images_have_the_vectors_of_open_clip(baked: Path, tiny: Tiny) -> None:
    items = parity_samples.images()
    assert len(items) == 50

    ours, expected = engine_images(baked, items), torch_images(tiny.model, items)

    assert min_cosine(ours, expected) >= 0.99999
    assert (ours * np.roll(expected, 1, axis=0)).sum(axis=1).mean() < 0.995


@pytest.mark.parametrize("count", [1, 17])
def test_batch_sizes(baked: Path, tiny: Tiny, count: int) -> None:
    captions, images = texts()[:count], parity_samples.images()[:count]

    assert min_cosine(engine_texts(baked, captions), torch_texts("tiny", tiny.model, captions)) >= 0.99999
    assert min_cosine(engine_images(baked, images), torch_images(tiny.model, images)) >= 0.99999


def test_short_texts_are_the_same_alone_and_beside_a_long_one(baked: Path) -> None:
    alone = np.concatenate([engine_texts(baked, [text]) for text in SHORT])

    together = engine_texts(baked, [SHORT[0], LONG, *SHORT[1:]])

    assert np.abs(np.delete(together, 1, axis=0) - alone).max() <= 1e-5


@pytest.mark.parametrize("shape", [(1, 2), (1, 77), (3, 5), (40, 33)])
def test_the_text_graph_takes_any_batch_and_length(baked: Path, shape: tuple[int, int]) -> None:
    session = ort.InferenceSession(str(baked / "text.onnx"), providers=["CPUExecutionProvider"])
    ids = np.full(shape, 320, np.int64)
    ids[:, 0], ids[:, -1] = 49406, 49407

    (projection,) = session.run(None, {"ids": ids})

    assert projection.shape == (shape[0], 32)
    assert projection.dtype == np.float32
    assert np.abs(np.linalg.norm(projection, axis=1) - 1).min() > 1e-3, "the graph returns raw projections"


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_the_image_graph_takes_any_batch(baked: Path, batch: int) -> None:
    session = ort.InferenceSession(str(baked / "image.onnx"), providers=["CPUExecutionProvider"])

    (projection,) = session.run(None, {"pixels": np.zeros((batch, 3, 32, 32), np.float32)})

    assert projection.shape == (batch, 32)
