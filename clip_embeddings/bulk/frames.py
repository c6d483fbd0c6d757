"""Rows as the data frames of pandas that Spark's `mapInPandas` hands to a worker and takes back.

Numbers that may be missing travel as text, because pandas would make them floating-point numbers, which hold
53 bits of a generation's 63.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from clip_embeddings.bulk.rows import EmbeddedRow, SourceRow, failed, is_web_address
from clip_embeddings.bulk.worker import Provenance, WorkerOptions, embed_rows
from clip_embeddings.errors import ApiError
from clip_embeddings.exchange.formats import batches
from clip_embeddings.index.factory import open_index
from clip_embeddings.index.types import Entry, Index, object_uri
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.file import FileBucket
from clip_embeddings.storage.types import BINARY

if TYPE_CHECKING:
    import pandas as pd

# Columns of the frames that workers are given: fields of SourceRow. All are text.
SOURCE_COLUMNS = ("uri", "generation", "text", "bucket", "name", "content_type", "updated")
# Columns of the frames that they give back, with their types in Spark's SQL.
EMBEDDED_COLUMNS = {
    "uri": "string",
    "generation": "bigint",
    "vector": "array<float>",
    "space": "string",
    "fingerprint": "string",
    "error": "string",
}
INDEXED_COLUMNS = {"uri": "string", "generation": "bigint", "fingerprint": "string"}

# Rows of a frame: a megabyte of vectors.
FRAME_ROWS = 500
# Entries of one transaction.
INDEX_ROWS = 250


def embed_frames(
    frames: Iterable[pd.DataFrame], options: WorkerOptions, made_by: Provenance
) -> Iterator[pd.DataFrame]:
    """Frames of SOURCE_COLUMNS to frames of EMBEDDED_COLUMNS: a row for each, not in their order."""
    for rows in batches(embed_rows(_rows(frames), options), FRAME_ROWS):
        yield _embedded_frame(rows, made_by)


def index_frames(
    frames: Iterable[pd.DataFrame], options: WorkerOptions, made_by: Provenance, url: str
) -> Iterator[pd.DataFrame]:
    """As `embed_frames`, but vectors go to the index at `url`, and are missing in what is returned."""
    index = _worker_index(url)
    for rows in batches(embed_rows(_rows(frames), options), INDEX_ROWS):
        yield _embedded_frame(_write(rows, made_by, index), made_by)


def listing_frames(frames: Iterable[pd.DataFrame], url: str) -> Iterator[pd.DataFrame]:
    """Frames of SOURCE_COLUMNS with every object at `url`: gs://bucket/prefix or file:///folder."""
    import pandas as pd

    for _ in frames:
        # Opened whole, so that names are those of the bucket.
        place = open_bucket(url, externally_written=True)
        if isinstance(place, FileBucket):
            bucket, listed = place.url, place.stats()
        else:
            bucket, _, prefix = url.removeprefix("gs://").partition("/")
            listed = open_bucket(f"gs://{bucket}").stats(prefix)
        for objects in batches(listed, 20 * FRAME_ROWS):
            lines = [
                {
                    "uri": object_uri(bucket, name),
                    "generation": str(stat.generation),
                    "text": None,
                    "bucket": bucket,
                    "name": name,
                    "content_type": stat.content_type,
                    "updated": datetime.fromtimestamp(stat.updated, UTC).isoformat(),
                }
                for name, stat in objects
            ]
            yield pd.DataFrame(lines, columns=list(SOURCE_COLUMNS))


def indexed_frames(frames: Iterable[pd.DataFrame], url: str) -> Iterator[pd.DataFrame]:
    """Frames of buckets (`bucket`) to frames of INDEXED_COLUMNS: what the index at `url` holds of them."""
    import pandas as pd

    index = _worker_index(url)
    for frame in frames:
        for bucket in frame["bucket"]:
            for entries in batches(index.generations(bucket), 20 * FRAME_ROWS):
                lines = [
                    (object_uri(bucket, entry.name), entry.generation, entry.fingerprint) for entry in entries
                ]
                yield pd.DataFrame(lines, columns=list(INDEXED_COLUMNS))


@cache
def _worker_index(url: str) -> Index:
    """The index at `url`, whose connections a worker keeps for all its tasks."""
    return open_index(url)


def _rows(frames: Iterable[pd.DataFrame]) -> Iterator[SourceRow]:
    for frame in frames:
        for uri, generation, *rest in zip(*(frame[name] for name in SOURCE_COLUMNS), strict=True):
            yield SourceRow(uri, None if generation is None else int(generation), *rest)


def _embedded_frame(rows: Iterable[EmbeddedRow], made_by: Provenance) -> pd.DataFrame:
    import pandas as pd

    rows = list(rows)
    columns: dict[str, Any] = {
        "uri": [row.source.uri for row in rows],
        # Python's numbers in a column of objects keep all their digits beside None.
        "generation": pd.Series([row.generation for row in rows], dtype=object),
        "vector": pd.Series([row.vector for row in rows], dtype=object),
        "space": made_by.space,
        "fingerprint": made_by.fingerprint,
        "error": pd.Series([row.error for row in rows], dtype=object),
    }
    return pd.DataFrame(columns, columns=list(EMBEDDED_COLUMNS))


def _write(rows: Iterable[EmbeddedRow], made_by: Provenance, index: Index) -> list[EmbeddedRow]:
    """Write the vectors of rows to the index; returns the rows without them."""
    written: list[EmbeddedRow] = []
    entries: list[Entry] = []
    for row in rows:
        if row.error is None:
            try:
                entries.append(_entry(row, made_by))
            except ApiError as error:
                row = failed(row.source, error)
        written.append(replace(row, vector=None))
    # What the index has in a newer generation stays; that is no failure.
    index.upsert(entries)
    return written


def _entry(row: EmbeddedRow, made_by: Provenance) -> Entry:
    source = row.source
    if is_web_address(source.uri) or source.text is not None or row.generation is None:
        raise ApiError(400, "url_invalid", "An index holds objects of buckets and folders only.")
    bucket, name = source.address
    assert row.vector is not None
    guessed = mimetypes.guess_type(name)[0] or BINARY
    return Entry(
        bucket=bucket,
        name=name,
        generation=row.generation,
        content_type=source.content_type or guessed,
        size=row.size,
        updated=datetime.fromisoformat(source.updated) if source.updated else datetime.now(UTC),
        space=made_by.space,
        fingerprint=made_by.fingerprint,
        vector=row.vector,
    )
