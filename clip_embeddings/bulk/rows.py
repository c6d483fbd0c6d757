"""Rows of a table before and after they are embedded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from clip_embeddings.errors import ApiError
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES
from clip_embeddings.storage.file import FileBucket


@dataclass(frozen=True)
class SourceRow:
    """A picture or a text to embed. What the table does not tell about it is None."""

    # gs://bucket/name, file:///folder/name, or an http(s) URL; of a text, whatever identifies it.
    uri: str
    # The generation to read, of a picture; of a text, a number that changes with it.
    generation: int | None = None
    text: str | None = None
    # As in Entry of an index, where a listing told them.
    bucket: str | None = None
    name: str | None = None
    content_type: str | None = None
    # ISO 8601.
    updated: str | None = None

    @property
    def address(self) -> tuple[str, str]:
        """Bucket and name as an index has them, from the listing or else from the URI.

        Raises:
            ApiError: 400 `url_invalid`: the URI names no object.
        """
        return (self.bucket, self.name) if self.bucket and self.name else split_uri(self.uri)


@dataclass(frozen=True)
class EmbeddedRow:
    """What became of a row: a vector, or an error."""

    source: SourceRow
    # Of the object that was read; None where the source has none, such as a web server.
    generation: int | None
    # (d,) float32; None if the row failed.
    vector: np.ndarray | None = field(default=None, compare=False)
    # `code: sentence`; None if it did not fail.
    error: str | None = None
    # In bytes, as read.
    size: int = 0


def failed(source: SourceRow, error: ApiError) -> EmbeddedRow:
    """The row of a source that cannot be embedded."""
    return EmbeddedRow(source, source.generation, error=f"{error.code}: {error.message}")


def is_web_address(uri: str) -> bool:
    """Whether `uri` is fetched from a web server."""
    return uri[:8].lower().startswith(("http://", "https://"))


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and name of gs://bucket/name, or the URL of the folder and the name of a file:// URL.

    Raises:
        ApiError: 400 `url_invalid`.
    """
    if uri.startswith("gs://"):
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if bucket and 0 < len(name.encode(errors="replace")) <= MAX_OBJECT_NAME_BYTES:
            return bucket, name
    elif uri.startswith("file:/"):
        # file:///folder/name, or file:/folder/name, as Hadoop writes it.
        path = unquote(re.sub("^file:(//)?", "", uri))
        folder, _, name = path.rpartition("/")
        # What follows file:// without a slash is another machine.
        if name and path.startswith("/") and "\0" not in path:
            return FileBucket(Path(f"{folder}/")).url, name
    raise ApiError(
        400,
        "url_invalid",
        "This is no URL of a picture: use gs://bucket/name, file:///folder/name or https://.",
    )
