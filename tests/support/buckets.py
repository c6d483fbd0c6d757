"""Fixtures that run a test for a folder and for Cloud Storage, and objects written by other programs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_embeddings.storage.directories import TEMP_DIR
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.gcs import GcsBucket
from clip_embeddings.storage.types import BINARY, Bucket
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
    gcs: GcsBucket = request.getfixturevalue("gcs")
    return gcs


def write_object(bucket: Bucket, name: str, data: bytes, content_type: str = BINARY) -> int:
    """Write or overwrite an object, as another program does; returns its generation, a later one."""
    if isinstance(bucket, GcsBucket):
        blob = bucket.client.get().bucket(bucket.bucket).blob(bucket.prefix + name)
        blob.upload_from_string(data, content_type)
        return int(blob.generation)
    assert isinstance(bucket, FileBucket)
    previous = bucket.stat(name)
    while True:
        _replace_file(bucket, name, data)
        present = bucket.stat(name)
        assert present is not None
        if previous is None or present.generation > previous.generation:
            return present.generation
        # The system's clock for files ticks every few milliseconds.
        time.sleep(0.005)


def _replace_file(bucket: FileBucket, name: str, data: bytes) -> None:
    # Listings of the bucket leave this folder out.
    temporary = bucket.folder / TEMP_DIR / uuid.uuid4().hex
    for path in (temporary, bucket.folder / name):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, bucket.folder / name)
