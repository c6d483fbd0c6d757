"""The photos of a bucket and the index that keeps their vectors."""

from __future__ import annotations

from dataclasses import dataclass

from functions.config import ConfigError, Settings
from functions.storage.buckets import Bucket, open_bucket
from functions.storage.index import Index, default_url, open_index


@dataclass(frozen=True)
class Collection:
    """A bucket, of which the objects whose names start with `prefix` are wanted, and their index."""

    bucket: Bucket
    index: Index
    # As entries have it: a bucket's name; of a folder its URL.
    name: str
    prefix: str = ""


def open_collection(settings: Settings) -> Collection:
    """The collection of this deployment; nothing is connected to yet.

    Raises:
        ConfigError: BUCKET_URL is not set.
    """
    photos = settings.photos
    if photos.url is None:
        raise ConfigError("BUCKET_URL is not set: use gs://bucket or file:///folder.")
    bucket = open_bucket(photos.url, foreign=True)
    name = bucket.url.removeprefix("gs://").rstrip("/") if photos.url.startswith("gs:") else bucket.url
    return Collection(bucket, open_own_index(settings), name, photos.prefix)


def open_own_index(settings: Settings) -> Index:
    """The index of this deployment; nothing is connected to yet."""
    return open_index(settings.index.url or default_url(), tombstone_ttl=settings.index.tombstone_ttl)
