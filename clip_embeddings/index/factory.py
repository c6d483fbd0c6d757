"""Opens the index that a URL names."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.registry import find_backend
from clip_embeddings.index.types import Index


def open_index(url: str, *, tombstone_ttl: float = IndexSettings.tombstone_ttl) -> Index:
    """The index at `sqlite:///file` or `firestore://project/collection`; nothing is touched yet.

    Args:
        tombstone_ttl: seconds for which a removed object is remembered.

    Raises:
        ValueError: the URL is neither; the message says what to use.
    """
    find_backend(url)
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        from clip_embeddings.index.sqlite import SqliteIndex

        return SqliteIndex(Path(unquote(parts.path)), tombstone_ttl)
    from clip_embeddings.index.firestore import FirestoreIndex

    return FirestoreIndex(parts.netloc, parts.path.removeprefix("/"), tombstone_ttl)


def default_url(bucket: str | None) -> str:
    """A file among the temporary ones, of this user and for this bucket's URL."""
    folder = Path(tempfile.gettempdir()) / f"clip-index-{os.getuid()}"
    digest = hashlib.sha256((bucket or "").encode()).hexdigest()[:16]
    return f"sqlite://{(folder / f'{digest}.sqlite').as_uri().removeprefix('file://')}"
