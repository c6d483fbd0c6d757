"""Reads the bytes of pictures: files, or URLs by the rules that the functions follow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clip_embeddings.config import Settings
from clip_embeddings.errors import ApiError
from clip_embeddings.fetch.client import fetch

URL_SCHEMES = ("http://", "https://")


def is_url(picture: str) -> bool:
    """Whether `picture` names a URL and no file."""
    return picture.lower().startswith(URL_SCHEMES)


def read_pictures(
    pictures: Sequence[str], folder: Path, settings: Settings, batch: int
) -> Iterator[list[tuple[str, bytes | str]]]:
    """Read `pictures` in order, `batch` at a time, files relative to `folder`.

    Yields each picture with its bytes, or with the reason why it cannot be read.
    """

    def read(picture: str) -> bytes | str:
        try:
            if is_url(picture):
                return fetch(picture, settings.fetch, settings.limits.image_bytes)
            return _read_file(folder / picture, settings.limits.image_bytes)
        except ApiError as error:
            return error.message
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)

    with ThreadPoolExecutor(settings.fetch.parallel) as pool:
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            yield list(zip(part, pool.map(read, part), strict=True))


def _read_file(path: Path, max_bytes: int) -> bytes | str:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        return f"The file has more than {max_bytes:,} bytes (MAX_IMAGE_BYTES)"
    return data or "The file is empty"
