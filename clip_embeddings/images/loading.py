"""Loads the bytes of an image from its source: the request itself, Cloud Storage or a URL."""

from __future__ import annotations

from dataclasses import replace

from clip_embeddings.config import Settings
from clip_embeddings.images.sources import GcsObject, ImageBytes, Source
from clip_embeddings.logs import Timings


def load_bytes(source: Source, timeout: float, settings: Settings, timings: Timings) -> bytes:
    """The bytes that `source` holds or names. Fetching a URL may take `timeout` seconds.

    Time spent on the network is added to the stage `fetch` of `timings`.

    Raises:
        ApiError: as `read_object` for a GcsObject, as `fetch` for an ImageUrl.
    """
    if isinstance(source, ImageBytes):
        return source.data
    # Imported late: a request that carries its images as bytes needs neither Cloud Storage nor requests.
    if isinstance(source, GcsObject):
        from clip_embeddings.images.objects import read_object

        with timings.measure("fetch"):
            return read_object(source, settings)
    from clip_embeddings.fetch.client import fetch

    with timings.measure("fetch"):
        return fetch(source.url, replace(settings.fetch, timeout=timeout), settings.limits.image_bytes)
