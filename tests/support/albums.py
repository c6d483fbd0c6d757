"""A folder as the bucket and its index, filled in this process with the real engine."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from clip_embeddings.index.factory import open_index
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Bucket
from model_cache.demo.emoji_sheet import load_emoji_sheet
from tests.support.buckets import write_object
from tests.support.vectors import model, raw_images


@dataclass(frozen=True)
class Album:
    """Photos in a folder and their index."""

    bucket: Bucket
    index: Index
    # The environment of a server that searches them.
    settings: Mapping[str, str]

    def add(self, pictures: Mapping[str, bytes], *, space: str | None = None, **metadata: str) -> None:
        """Write `pictures` into the folder, by name, and their vectors into the index."""
        rows = raw_images(*pictures.values())
        entries = []
        for (name, data), vector in zip(pictures.items(), rows, strict=True):
            generation = write_object(self.bucket, name, data)
            stat = self.bucket.stat(name)
            assert stat is not None
            entries.append(
                Entry(
                    bucket=self.bucket.url,
                    name=name,
                    generation=generation,
                    content_type=stat.content_type,
                    size=stat.size,
                    updated=datetime.fromtimestamp(stat.updated, UTC),
                    space=space or model().manifest.space,
                    fingerprint="unused",
                    vector=vector,
                    metadata=metadata,
                )
            )
        assert all(self.index.upsert(entries))

    def uri(self, name: str) -> str:
        """The URI of an object."""
        return f"{self.bucket.url}{name}"

    def entry(self, name: str) -> Entry:
        """The entry of an object."""
        entry = self.index.get(self.bucket.url, name)
        assert entry is not None
        return entry

    def change(self, object_name: str, /, **changes: object) -> None:
        """Write an object's entry again, with some fields changed."""
        entry = self.entry(object_name)
        assert self.index.upsert([replace(entry, **changes)]) == [True]  # type: ignore[arg-type]


def new_album(folder: Path, index_url: str | None = None) -> Album:
    """An empty album below `folder`, with its index there too or at `index_url`."""
    settings = {
        "BUCKET_URL": (folder / "photos").as_uri(),
        "INDEX_URL": index_url or f"sqlite://{folder}/index.sqlite",
    }
    if emulator := os.environ.get("FIRESTORE_EMULATOR_HOST"):
        settings["FIRESTORE_EMULATOR_HOST"] = emulator
    bucket = open_bucket(settings["BUCKET_URL"], externally_written=True)
    return Album(bucket, open_index(settings["INDEX_URL"]), settings)


@cache
def emoji(count: int = 300) -> dict[str, bytes]:
    """PNG files of emoji from all over the bundled sheet, with the birthday cake among them."""
    all_emoji = load_emoji_sheet()
    chosen = [*all_emoji[:: max(1, len(all_emoji) // count)]]
    chosen += [
        picture for picture in all_emoji if picture.name in ("birthday cake", "cat face", "fire engine")
    ]
    pictures = {}
    for picture in chosen:
        file = io.BytesIO()
        picture.image.save(file, "PNG")
        pictures[f"emoji/{picture.name.replace('/', '-')}.png"] = file.getvalue()
    return pictures
