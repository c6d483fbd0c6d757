"""Vectors that the engine computes in this process, to compare the replies of servers with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from clip_embeddings.config import ImageSettings
from clip_embeddings.engine.model import Model, load_model, normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.images.decoding import decode_image
from clip_embeddings.paths import MODEL_CACHE


@cache
def model() -> Model:
    """The bundled model."""
    return load_model(MODEL_CACHE / "demo", ("text", "image"), scheduler=Scheduler(2, 64))


def raw_texts(*texts: str) -> np.ndarray:
    """Raw projections of `texts`, embedded together: (n, d) float32."""
    return model().text.get().embed(texts).vectors


def raw_images(*pictures: bytes) -> np.ndarray:
    """Raw projections of `pictures`, embedded together: (n, d) float32."""
    tower = model().image.get()
    target = max(tower.preprocess.size)
    images = [
        decode_image(data, settings=ImageSettings(), max_pixels=50_000_000, target=target)
        for data in pictures
    ]
    return tower.embed([tower.pixels(image) for image in images])


def assert_texts(vectors: Sequence[Any], *texts: str) -> None:
    """Assert that `vectors` are the unit vectors of `texts`, in their order."""
    _assert_equal(vectors, normalize_rows(raw_texts(*texts)))


def assert_images(vectors: Sequence[Any], *pictures: bytes) -> None:
    """Assert that `vectors` are the unit vectors of `pictures`, in their order."""
    _assert_equal(vectors, normalize_rows(raw_images(*pictures)))


def _assert_equal(vectors: Sequence[Any], expected: np.ndarray) -> None:
    actual = np.array(vectors, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-5
    assert (actual * expected).sum(axis=1).min() >= 0.99999
