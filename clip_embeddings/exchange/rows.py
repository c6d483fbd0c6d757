"""Entries as rows of a file, and what is checked before a row becomes an entry again.

The columns are ROW_TYPES, with a vector beside them. `uri` is for other programs that read such a file;
loading takes the bucket and the name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from clip_embeddings.errors import ConfigError
from clip_embeddings.index.types import Entry

# In the order of the columns.
ROW_TYPES: Mapping[str, type] = {
    "uri": str,
    "bucket": str,
    "name": str,
    "generation": int,
    "content_type": str,
    "size": int,
    "updated": str,
    "space": str,
    "fingerprint": str,
    "metadata": str,
    "labels": str,
    "label_set": str,
}
# Missing in files that were written before there were labels.
OPTIONAL: Mapping[str, str] = {"labels": "{}", "label_set": ""}
VECTOR = "vector"

# How far from 1 the length of a vector may be: any vector of an index is that of a 32-bit float.
LENGTH_TOLERANCE = 1e-3


class FileError(ConfigError):
    """A file cannot be read or written, or holds what does not belong into an index. The message says why."""


def to_row(entry: Entry) -> dict[str, Any]:
    """The columns of an entry but its vector. Times are ISO 8601, metadata and labels JSON."""
    return {
        "uri": entry.uri,
        "bucket": entry.bucket,
        "name": entry.name,
        "generation": entry.generation,
        "content_type": entry.content_type,
        "size": entry.size,
        "updated": entry.updated.astimezone(UTC).isoformat(),
        "space": entry.space,
        "fingerprint": entry.fingerprint,
        "metadata": json.dumps(dict(entry.metadata)),
        "labels": json.dumps(dict(entry.labels)),
        "label_set": entry.label_set,
    }


def to_entry(row: Mapping[str, Any], vector: np.ndarray, number: int) -> Entry:
    """The entry of row `number` of a file, counted from 1. Raises FileError if it is not one."""
    row = {**row, **{name: value for name, value in OPTIONAL.items() if row.get(name) is None}}
    for name, kind in ROW_TYPES.items():
        if name != "uri" and type(row.get(name)) is not kind:
            raise FileError(f"Row {number} has no {name}, or not as {kind.__name__}.")
    if not row["space"] or not row["fingerprint"]:
        raise FileError(f"Row {number} does not say which space or fingerprint its vector has.")
    values = np.asarray(vector, np.float32)
    length = float(np.linalg.norm(values.astype(np.float64))) if values.ndim == 1 and values.size else 0.0
    if not abs(length - 1) <= LENGTH_TOLERANCE:
        raise FileError(f"Row {number} has a vector whose length is not 1.")
    try:
        updated, metadata = datetime.fromisoformat(row["updated"]), json.loads(row["metadata"])
    except ValueError:
        raise FileError(f"Row {number} has a time or metadata that cannot be read.") from None
    if updated.tzinfo is None or not _is_map(metadata, (str,)):
        raise FileError(f"Row {number} has a time without a zone, or metadata that are not texts.")
    try:
        labels = json.loads(row["labels"])
    except ValueError:
        labels = None
    if not _is_map(labels, (int, float)):
        raise FileError(f"Row {number} has labels without probabilities, or labels that cannot be read.")
    return Entry(
        bucket=row["bucket"],
        name=row["name"],
        generation=row["generation"],
        content_type=row["content_type"],
        size=row["size"],
        updated=updated,
        space=row["space"],
        fingerprint=row["fingerprint"],
        vector=values,
        metadata=metadata,
        labels=labels,
        label_set=row["label_set"],
    )


def _is_map(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, dict) and all(type(item) in kinds for item in value.values())
