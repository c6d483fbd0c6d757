"""Searches and samples of an index in Firestore."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from clip_embeddings.index.firestore_client import retry_options, translate_errors
from clip_embeddings.index.firestore_documents import FIELDS, LABEL_FIELDS, in_range, to_entry, where
from clip_embeddings.index.types import Entry, Filter, Hit, names_with_prefix

# The field that a query adds to its results: 1 - cosine similarity.
DISTANCE = "distance"


def nearest(
    documents: Callable[[], Any],
    vector: np.ndarray,
    space: str,
    limit: int,
    filter_: Filter,
    min_score: float | None,
    with_vectors: bool,
) -> list[Hit]:
    """The entries nearest to `vector` (d,), of length 1; of the filter, its bucket and its prefix count.

    Args:
        documents: the collection.
    """
    from google.cloud.firestore_v1.base_vector_query import DistanceMeasure
    from google.cloud.firestore_v1.vector import Vector

    with translate_errors():
        query = documents().where(filter=where("space", "==", space))
        if filter_.bucket is not None:
            query = query.where(filter=where("bucket", "==", filter_.bucket))
        if filter_.prefix:
            query = in_range(query, "name", names_with_prefix(filter_.prefix))
        fields = [*FIELDS, *LABEL_FIELDS, DISTANCE, *(["vector"] if with_vectors else [])]
        nearest_ones = query.select(fields).find_nearest(
            "vector",
            Vector(vector.tolist()),
            limit=limit,
            distance_measure=DistanceMeasure.COSINE,
            distance_result_field=DISTANCE,
            distance_threshold=None if min_score is None else 1 - min_score,
        )
        results = [snapshot.to_dict() for snapshot in nearest_ones.get(**retry_options())]
    return [Hit(to_entry(document), 1 - document[DISTANCE]) for document in results]


def sample(documents: Callable[[], Any], space: str, count: int, bucket: str | None) -> list[Entry]:
    """See Index.sample.

    The ids of documents are hashes, so documents that follow one another in the order of their ids, from a
    random one on, have nothing else in common.
    """
    with translate_errors():
        collection = documents()
        query = collection.where(filter=where("space", "==", space))
        if bucket is not None:
            query = query.where(filter=where("bucket", "==", bucket))
        query = query.order_by("__name__")
        start = collection.document(secrets.token_hex(32))
        snapshots = list(query.start_at({"__name__": start}).limit(count).get(**retry_options()))
        if len(snapshots) < count:
            before = query.end_before({"__name__": start}).limit(count - len(snapshots))
            snapshots += before.get(**retry_options())
        entries = [to_entry(snapshot.to_dict()) for snapshot in snapshots]
    random.shuffle(entries)
    return entries
