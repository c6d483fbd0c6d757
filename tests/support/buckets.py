"""Fixtures that run the same tests for a folder and for Cloud Storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.gcs import GcsBucket
from clip_embeddings.storage.types import Bucket
from tests.support.gcs_server import GcsServer, connected, serving


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with serving() as running:
        yield running


@pytest.fixture
def gcs(server: GcsServer) -> Iterator[GcsBucket]:
    with connected(server.url, "jobs") as bucket:
        yield bucket


@pytest.fixture(params=["file", "gcs"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "file":
        return FileBucket(tmp_path / "bucket")
    found: GcsBucket = request.getfixturevalue("gcs")
    return found
