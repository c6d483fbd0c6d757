"""Opens the index that a URL names."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib import import_module
from pathlib import Path

from clip_embeddings.config import IndexSettings, Settings, need_package
from clip_embeddings.index.registry import find_backend
from clip_embeddings.index.types import Index


def open_index(url: str, *, tombstone_ttl: float = IndexSettings.tombstone_ttl) -> Index:
    """The index at `url`, in the backend that the URL names. Makes no file and no connection.

    Args:
        tombstone_ttl: seconds for which a removed object is remembered.

    Raises:
        ValueError: no backend has such URLs; the message says which forms are allowed.
        ConfigError: the backend's package is not installed.
    """
    backend = find_backend(url)
    if backend.package is not None:
        need_package("INDEX_URL", backend.package)
    index: Index = import_module(backend.module).open_index(url, tombstone_ttl)
    return index


def open_configured_index(settings: Settings) -> Index:
    """The index of this deployment. Makes no file and no connection.

    Raises:
        ConfigError: the index needs a package that is not installed.
    """
    url = settings.index.url or default_url(settings.photos.url)
    return open_index(url, tombstone_ttl=settings.index.tombstone_ttl)


def default_url(bucket_url: str | None) -> str:
    """The URL if INDEX_URL is not set: a temporary SQLite file of this user, one for each bucket URL."""
    folder = Path(tempfile.gettempdir()) / f"clip-index-{os.getuid()}"
    digest = hashlib.sha256((bucket_url or "").encode()).hexdigest()[:16]
    return f"sqlite://{(folder / f'{digest}.sqlite').as_uri().removeprefix('file://')}"
