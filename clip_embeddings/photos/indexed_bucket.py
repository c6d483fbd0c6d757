"""A bucket of photos together with the index that holds their vectors."""

from __future__ import annotations

from dataclasses import dataclass

from clip_embeddings.config import CLOUD_STORAGE, Settings, need_package
from clip_embeddings.errors import ConfigError
from clip_embeddings.index.factory import open_configured_index
from clip_embeddings.index.types import Index
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import Bucket


@dataclass(frozen=True)
class IndexedBucket:
    """A bucket and its index. Only objects whose names start with `prefix` are indexed."""

    bucket: Bucket
    index: Index
    # The value of `Entry.bucket`: the name of a Cloud Storage bucket, or the URL of a folder.
    name: str
    prefix: str = ""
    # Whether an object can return to a generation that it had before, as a file does when its folder is moved
    # away and back. A lower generation is then not necessarily older.
    generations_recur: bool = False


def open_indexed_bucket(settings: Settings) -> IndexedBucket:
    """The bucket of photos of this deployment and its index. Connects to nothing.

    Raises:
        ConfigError: BUCKET_URL is not set or names a missing folder, or a package is not installed.
    """
    photos = settings.photos
    if photos.url is None:
        raise ConfigError("BUCKET_URL is not set: use gs://bucket or file:///folder.")
    bucket, index = open_bucket(photos.url, externally_written=True), open_configured_index(settings)
    if not isinstance(bucket, FileBucket):
        need_package("BUCKET_URL", CLOUD_STORAGE)
        return IndexedBucket(bucket, index, bucket.url.removeprefix("gs://").rstrip("/"), photos.prefix)
    if not bucket.folder.is_dir():
        raise ConfigError(f"BUCKET_URL names {bucket.folder}, which is not a folder.")
    return IndexedBucket(bucket, index, bucket.url, photos.prefix, generations_recur=True)
