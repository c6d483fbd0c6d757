"""Opens the bucket that a URL names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from clip_embeddings.setting_values import BUCKET_NAME, BUCKET_URL_FORMS
from clip_embeddings.storage.types import Bucket


def open_bucket(url: str, *, externally_written: bool = False) -> Bucket:
    """The bucket at `file:///folder` or `gs://bucket/prefix`. Makes no file and no connection.

    Args:
        externally_written: whether other programs write into the folder as well. See FileBucket.

    Raises:
        ValueError: the URL has neither form; the message says which forms are allowed.
    """
    parts = urlsplit(url)
    if not parts.query and not parts.fragment:
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            from clip_embeddings.storage.file import FileBucket

            return FileBucket(Path(unquote(parts.path)), externally_written)
        if parts.scheme == "gs" and re.fullmatch(BUCKET_NAME, parts.netloc):
            from clip_embeddings.storage.gcs import GcsBucket

            prefix = parts.path.strip("/")
            return GcsBucket(parts.netloc, f"{prefix}/" if prefix else "")
    raise ValueError(f"use {BUCKET_URL_FORMS}")


def bucket_name(url: str) -> str:
    """The value of `Entry.bucket` for the bucket that BUCKET_URL names. Imports no client of a cloud."""
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "gs" else open_bucket(url).url


def open_stream(source: str) -> BinaryIO:
    """A file at a path or at `file:///file`, or an object at `gs://bucket/name`, to read any part of it.

    Raises:
        OSError, StorageError: it cannot be read.
    """
    scheme, _, rest = source.partition("://")
    if scheme == "gs":
        from clip_embeddings.storage.gcs import GcsBucket

        bucket, _, name = rest.partition("/")
        return GcsBucket(bucket).open(name)
    return Path(unquote(urlsplit(source).path) if scheme == "file" else source).open("rb")


@cache
def open_cloud_bucket(name: str) -> Bucket:
    """The Cloud Storage bucket `name`. Every call returns the same object, and so uses the same client."""
    return open_bucket(f"gs://{name}")
