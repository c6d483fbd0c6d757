"""A bucket, its index and backfills of it, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip_embeddings.index.types import Index
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Bucket
from tests.support import gcs_server
from tests.support.buckets import write_object
from tests.support.indexes import opened_index
from tests.support.serving import ROOT, environment
from tests.support.vectors import assert_images

COMMAND = (sys.executable, "-m", "functions.backfill")


@dataclass(frozen=True)
class Deployment:
    """A bucket, its index, and the settings that name both."""

    bucket: Bucket
    # The value of `Entry.bucket`.
    name: str
    index: Index
    settings: Mapping[str, str]

    def run(self, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a backfill to its end."""
        env = environment({**self.settings, **settings})
        return subprocess.run(
            [*COMMAND, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )

    def begin(self, **settings: str) -> subprocess.Popen[bytes]:
        """Start a backfill."""
        return subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            env=environment({**self.settings, **settings}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def generations(self) -> dict[str, int]:
        """The generations in the index, by name."""
        return {name: generation for name, generation, *_ in self.index.generations(self.name)}

    def check(self, pictures: Mapping[str, bytes]) -> None:
        """The index has exactly these pictures, in their present generations, with their vectors."""
        assert self.generations() == {
            name: stat.generation for name, stat in self.bucket.stats() if name in pictures
        }
        assert set(self.generations()) == set(pictures)
        assert self.index.count() == len(pictures)
        names = list(pictures)
        for start in range(0, len(names), 50):
            batch = names[start : start + 50]
            entries = [self.index.get(self.name, name) for name in batch]
            vectors = [entry.vector for entry in entries if entry]
            assert_images(vectors, *(pictures[name] for name in batch))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Deployment]:
    url, index_url = (tmp_path / "photos").as_uri(), f"sqlite://{tmp_path}/index.sqlite"
    bucket = open_bucket(url, externally_written=True)
    with opened_index(index_url) as index:
        yield Deployment(
            bucket, bucket.url, index, {"BUCKET_URL": url, "INDEX_URL": index_url, "MODEL": "demo"}
        )


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[gcs_server.GcsServer, Deployment]]:
    index_url = f"sqlite://{tmp_path}/index.sqlite"
    with (
        gcs_server.serving() as server,
        gcs_server.connected(server.url, "") as bucket,
        opened_index(index_url) as index,
    ):
        settings = {
            "BUCKET_URL": f"gs://{gcs_server.BUCKET}",
            "STORAGE_EMULATOR_HOST": server.url,
            "INDEX_URL": index_url,
            "MODEL": "demo",
        }
        yield server, Deployment(bucket, gcs_server.BUCKET, index, settings)


def fill(bucket: Bucket, pictures: Mapping[str, bytes]) -> None:
    for name, data in pictures.items():
        write_object(bucket, name, data)


def counts(output: str) -> tuple[int, int, int, int]:
    """The numbers of the summary: embedded, removed, skipped, failed."""
    match = re.search(r"embedded ([\d,]+), removed ([\d,]+), skipped ([\d,]+).*, failed ([\d,]+)", output)
    assert match, output
    embedded, removed, skipped, failed = (int(number.replace(",", "")) for number in match.groups())
    return embedded, removed, skipped, failed
