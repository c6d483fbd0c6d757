"""The photos of a bucket and the index that keeps their vectors."""

from __future__ import annotations

from dataclasses import dataclass

from clip_embeddings.config import ConfigError, Settings, need_package
from clip_embeddings.index.factory import default_url, open_index
from clip_embeddings.index.types import Index
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import Bucket


@dataclass(frozen=True)
class IndexedBucket:
    """A bucket, of which the objects whose names start with `prefix` are wanted, and their index."""

    bucket: Bucket
    index: Index
    # As entries have it: a bucket's name; of a folder its URL.
    name: str
    prefix: str = ""
    # Whether an object can come back in a generation that it had before, as a file does whose folder is moved
    # away and back. No generation is then older than another, only different.
    generations_recur: bool = False


def open_indexed_bucket(settings: Settings) -> IndexedBucket:
    """The collection of this deployment; nothing is connected to yet.

    Raises:
        ConfigError: BUCKET_URL is not set, names a folder that is not there, or needs a package that is not.
    """
    photos = settings.photos
    if photos.url is None:
        raise ConfigError("BUCKET_URL is not set: use gs://bucket or file:///folder.")
    bucket, index = open_bucket(photos.url, externally_written=True), open_own_index(settings)
    if not isinstance(bucket, FileBucket):
        need_package("BUCKET_URL", "google.cloud.storage")
        return IndexedBucket(bucket, index, bucket.url.removeprefix("gs://").rstrip("/"), photos.prefix)
    if not bucket.folder.is_dir():
        raise ConfigError(f"BUCKET_URL names {bucket.folder}, which is not a folder.")
    return IndexedBucket(bucket, index, bucket.url, photos.prefix, generations_recur=True)


def open_own_index(settings: Settings) -> Index:
    """The index of this deployment; nothing is connected to yet. Raises ConfigError for lack of a package."""
    url = settings.index.url or default_url(settings.photos.url)
    if url.startswith("firestore:"):
        need_package("INDEX_URL", "google.cloud.firestore")
    return open_index(url, tombstone_ttl=settings.index.tombstone_ttl)
