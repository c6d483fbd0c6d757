"""Loads the bytes of an image from its source: the request itself, Cloud Storage or a URL."""

from __future__ import annotations

from dataclasses import replace

from clip_embeddings.config import Settings
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.sources import GcsObject, ImageBytes, ImageUrl, Source
from clip_embeddings.logs import Timings


def load_bytes(
    source: Source, timeout: float, settings: Settings, timings: Timings, memory: DownloadMemory
) -> bytes:
    """The bytes that `source` holds or names. Fetching a URL may take `timeout` seconds.

    Time spent on the network is added to the stage `fetch` of `timings`.

    Args:
        memory: what a download holds of it is held when this returns.

    Raises:
        ApiError: as `read_object` for a GcsObject, as `fetch` for an ImageUrl.
        OverloadedError: there is no memory for a download.
    """
    if isinstance(source, ImageBytes):
        return source.data
    with timings.measure("fetch"):
        data = _download(source, timeout, settings, memory)
    memory.shrink(len(data))
    return data


def _download(
    source: GcsObject | ImageUrl, timeout: float, settings: Settings, memory: DownloadMemory
) -> bytes:
    # Imported late: a request that carries its images as bytes needs neither Cloud Storage nor requests.
    if isinstance(source, GcsObject):
        from clip_embeddings.images.objects import read_object

        return read_object(source, settings, memory.reserve)
    from clip_embeddings.fetch.client import fetch

    reserve = memory.reserve
    if memory.background:
        # A wait for memory may be long: it must not count as the server's time.
        reserved = memory.reserve()

        def reserve(size: int | None = None) -> int:
            return reserved if size is None else min(size, reserved)

    return fetch(source.url, replace(settings.fetch, timeout=timeout), memory.max_bytes, reserve)
