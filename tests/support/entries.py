"""Entries for tests of indexes, each with a vector of its own."""

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
    values: dict[str, Any] = {
        "bucket": "photos",
        "name": name,
        "generation": generation,
        "content_type": "image/png",
        "size": 5,
        "updated": UPDATED,
        "space": "s",
        "fingerprint": "f",
        "vector": direction(f"{name} {generation}") if vector is None else vector,
    }
    return Entry(**values | fields)


def direction(seed: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """A pseudorandom vector of length 1, the same for every call: (dimensions,) float32."""
    values = np.random.default_rng(zlib.crc32(seed.encode(errors="surrogatepass"))).standard_normal(
        dimensions
    )
    return (values / np.linalg.norm(values)).astype(np.float32)
