"""Entries of indexes that tests write, each with a vector that only it has."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any

import numpy as np

from clip_embeddings.index.types import Entry

DIMENSIONS = 16
UPDATED = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)


def entry(name: str = "a", generation: int = 1, vector: np.ndarray | None = None, **fields: Any) -> Entry:
    """An entry of the bucket `photos` and the space `s`, unless `fields` say otherwise."""
    given = {"bucket": "photos", "space": "s", "fingerprint": "f", "content_type": "image/png", "size": 5}
    found = direction(f"{name} {generation}") if vector is None else vector
    return Entry(name=name, generation=generation, vector=found, updated=UPDATED, **given | fields)


def direction(seed: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """A vector of length 1 that looks random and is always the same: (dimensions,) float32."""
    values = np.random.default_rng(zlib.crc32(seed.encode(errors="surrogatepass"))).standard_normal(
        dimensions
    )
    return (values / np.linalg.norm(values)).astype(np.float32)
