"""The documents of an index in Firestore: their ids and fields, and the conditions of queries on them.

An object's document is named by a hash and holds the fields of Entry and `uri`. `metadata` is JSON, because
its keys are the uploader's, and so is `labels`. Documents that were written before there were labels have
neither these nor `label_set`. A tombstone has neither `space` nor `vector`, but `expires`, for a TTL policy
on that field. One more document for each space holds the number of dimensions of its vectors, and one for
each part of a report its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from clip_embeddings.index.types import Entry, object_uri
from clip_embeddings.storage.types import NameRange

# The fields of Entry, without the vector, that every document has; then those that it may have.
FIELDS = (
    "bucket",
    "name",
    "generation",
    "content_type",
    "size",
    "updated",
    "space",
    "fingerprint",
    "metadata",
)
LABEL_FIELDS = ("labels", "label_set")


def object_id(bucket: str, name: str) -> str:
    """The id of an object's document: a hash, because ids are short and cannot contain slashes."""
    return hashlib.sha256(f"{bucket}\0{name}".encode()).hexdigest()


def space_id(space: str) -> str:
    """The id of a space's document."""
    return f"space-{hashlib.sha256(space.encode()).hexdigest()}"


def report_id(name: str, part: int) -> str:
    """The id of the document of one part of a report."""
    return f"report-{hashlib.sha256(name.encode()).hexdigest()}-{part}"


def entry_document(entry: Entry) -> dict[str, Any]:
    """The fields of an entry's document."""
    from google.cloud.firestore_v1.vector import Vector

    return {field: getattr(entry, field) for field in FIELDS} | {
        "uri": entry.uri,
        "updated": entry.updated.astimezone(UTC),
        "metadata": json.dumps(dict(entry.metadata)),
        **label_fields(entry.labels, entry.label_set),
        "vector": Vector(entry.vector.tolist()),
        "deleted": False,
    }


def label_fields(labels: Mapping[str, float], label_set: str) -> dict[str, Any]:
    """The fields of a document that say what an object shows."""
    return {"labels": json.dumps(dict(labels)), "label_set": label_set}


def to_entry(document: Mapping[str, Any]) -> Entry:
    """The entry of a document's fields. Its vector is (0,) if a query left it out."""
    values = {field: document[field] for field in FIELDS}
    vector = np.array(list(document.get("vector", ())), np.float32)
    return Entry(
        **values
        | {
            "metadata": json.loads(document["metadata"]),
            "labels": json.loads(document.get("labels", "{}")),
            "label_set": document.get("label_set", ""),
            "vector": vector,
        }
    )


def tombstone_document(bucket: str, name: str, generation: int, expires: datetime) -> dict[str, Any]:
    """The fields of a removed object's document."""
    return {
        "uri": object_uri(bucket, name),
        "bucket": bucket,
        "name": name,
        "generation": generation,
        "deleted": True,
        "expires": expires,
    }


def is_expired(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether the document is a tombstone that has expired; the TTL policy removes it some time later."""
    return bool(document["deleted"] and document["expires"] <= now)


def may_replace(document: Mapping[str, Any] | None, generation: int, now: datetime) -> bool:
    """Whether an entry of `generation` may replace the present document of its object."""
    if not document or is_expired(document, now):
        return True
    older: bool = document["generation"] < generation
    return older or (document["generation"] == generation and not document["deleted"])


def where(field: str, operator: str, value: object) -> Any:
    """A filter of a query."""
    from google.cloud.firestore_v1.base_query import FieldFilter

    return FieldFilter(field, operator, value)


def in_range(query: Any, field: str, values: NameRange) -> Any:
    """The query, limited to documents whose `field` is in a range."""
    query = query.where(filter=where(field, ">=", values.start))
    return query if values.end is None else query.where(filter=where(field, "<", values.end))
