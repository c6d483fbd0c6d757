"""Reads and decodes the picture of a row, wherever it is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from clip_embeddings.bulk.rows import EmbeddedRow, SourceRow, failed, is_web_address
from clip_embeddings.embedding import image_pixels
from clip_embeddings.engine.model import ImageTower
from clip_embeddings.errors import ApiError
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.loading import load_bytes
from clip_embeddings.images.objects import read_generation
from clip_embeddings.images.sources import ImageUrl
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.factory import open_bucket, open_cloud_bucket
from clip_embeddings.storage.types import Bucket

# A picture that is ready for the model, without a vector yet, and its pixels: (3, h, w) float32.
Decoded = tuple[EmbeddedRow, np.ndarray]


def read_picture(row: SourceRow, tower: ImageTower, runtime: Runtime) -> Decoded | EmbeddedRow:
    """The picture of a row as the tower's input, or the row with its error."""
    limits = runtime.settings.limits
    try:
        with DownloadMemory(runtime.memory.downloads, limits.image_bytes, deadline=None) as memory:
            data, generation = _read(row, runtime, memory)
            memory.shrink(len(data))
            pixels = image_pixels(data, tower, runtime)
            return EmbeddedRow(row, generation, size=len(data)), pixels
    except ApiError as error:
        # A new row, so that no traceback keeps the picture in memory.
        return failed(row, error)


def _read(row: SourceRow, runtime: Runtime, memory: DownloadMemory) -> tuple[bytes, int | None]:
    if is_web_address(row.uri):
        settings = runtime.settings
        return load_bytes(ImageUrl(row.uri), settings.fetch.timeout, settings, Timings(), memory), None
    bucket, name = row.address
    return read_generation(_open(bucket), name, row.generation, memory.reserve())


@lru_cache(maxsize=1024)
def _open(bucket: str) -> Bucket:
    """The bucket of that name, or the folder of that URL."""
    try:
        if "://" in bucket:
            return open_bucket(bucket, externally_written=True)
        return open_cloud_bucket(bucket)
    except ValueError:
        raise ApiError(400, "url_invalid", "No bucket can have the name in this URL.") from None
