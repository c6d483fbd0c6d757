"""Indexes of tests: a URL for each backend of the registry, and an index that is closed with its block."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.index.factory import open_index
from clip_embeddings.index.firestore import FirestoreIndex
from clip_embeddings.index.postgres import PostgresIndex
from clip_embeddings.index.sqlite import SqliteIndex
from clip_embeddings.index.types import Index
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    import pytest

# Opens the index of a test, each time as another process would.
Open = Callable[..., Index]


def _sqlite_url(request: pytest.FixtureRequest) -> str:
    folder: Path = request.getfixturevalue("tmp_path")
    return f"sqlite://{folder}/index/photos.sqlite"


def _firestore_url(request: pytest.FixtureRequest) -> str:
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue("firestore"))
    return f"firestore://photos-test/t{uuid.uuid4().hex}"


def _postgres_url(request: pytest.FixtureRequest) -> str:
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.index_url(table=f"t{uuid.uuid4().hex}")


# For each backend, by scheme: what makes the URL of an empty index.
EMPTY_INDEX_URLS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": _sqlite_url,
    "firestore": _firestore_url,
    "postgresql": _postgres_url,
}


@contextmanager
def opened_index(url: str, **options: float) -> Iterator[Index]:
    """The index at `url`. Its connections are closed at the end, which a serving process never does."""
    index = open_index(url, **options)
    try:
        yield index
    finally:
        close_index(index)


def close_index(index: Index) -> None:
    """Close the connections of an index that is not in use."""
    if isinstance(index, SqliteIndex):
        index._connections.close_idle()
    if isinstance(index, FirestoreIndex) and index._client.made:
        index._client.get().close()
    if isinstance(index, PostgresIndex):
        index.close()
