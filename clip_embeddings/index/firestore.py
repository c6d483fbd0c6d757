"""An index in one Firestore collection. Honors FIRESTORE_EMULATOR_HOST.

Queries need the composite index (space, vector). Queries with a prefix need the index (space, name, vector).
Queries with a bucket need one of these with the field `bucket` added. Nothing else needs a composite index,
and the emulator needs none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.firestore_client import connect, retry_options, translate_errors
from clip_embeddings.index.firestore_documents import (
    FIELDS,
    entry_document,
    in_range,
    is_expired,
    may_replace,
    object_id,
    space_id,
    to_entry,
    tombstone_document,
    where,
)
from clip_embeddings.index.types import (
    Entry,
    Hit,
    check_dimensions,
    check_entry,
    check_generation,
    is_text,
    names_with_prefix,
    normalize,
    object_uri,
)
from clip_embeddings.lazy import Lazy
from clip_embeddings.storage.types import ALL_NAMES, NameRange, TransientError

T = TypeVar("T")

# Fields of documents, by the documents' ids.
Documents = dict[str, dict[str, Any]]

# Seconds for which a change is tried again while other writers change the same documents.
CONFLICT_TIMEOUT = 30.0

# Documents of one change: few, so that other writers seldom change the same ones.
BATCH_SIZE = 50

# Firestore returns no more documents for one query.
PAGE_SIZE = 1000

# The field that a query adds to its results: 1 - cosine similarity.
DISTANCE = "distance"


def open_index(url: str, tombstone_ttl: float) -> FirestoreIndex:
    """The index at `firestore://project/collection`. Connects to nothing."""
    parts = urlsplit(url)
    return FirestoreIndex(parts.netloc, parts.path.removeprefix("/"), tombstone_ttl)


class FirestoreIndex:
    """The index in `collection` of a project's default database. See Index."""

    def __init__(
        self, project: str, collection: str, tombstone_ttl: float = IndexSettings.tombstone_ttl
    ) -> None:
        self._collection = collection
        self._tombstone_ttl = timedelta(seconds=tombstone_ttl)
        # Channels do not survive a fork, so the first call makes the client, in the process that serves.
        self._client: Lazy[Any] = Lazy(lambda: connect(project))
        # The number of dimensions of each space. It never changes once it is set.
        self._dimensions: dict[str, int] = {}

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        checked = [check_entry(entry) for entry in entries]
        for entry in checked:
            check_dimensions(entry.space, self._claim_dimensions(entry), len(entry.vector))
        written = []
        for start in range(0, len(checked), BATCH_SIZE):
            written += self._upsert_batch(checked[start : start + BATCH_SIZE])
        return written

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        check_generation(generation)
        if not is_text(bucket, name):
            return True
        id_ = object_id(bucket, name)

        def decide(present: Documents, now: datetime) -> tuple[bool, Documents]:
            document = present.get(id_)
            if document and not is_expired(document, now) and document["generation"] > generation:
                return False, {}
            expires = now + self._tombstone_ttl
            return True, {id_: tombstone_document(bucket, name, 0 if forget else generation, expires)}

        return self._change([id_], decide)

    def query(
        self,
        vector: np.ndarray,
        space: str,
        k: int,
        *,
        bucket: str | None = None,
        prefix: str = "",
        min_score: float | None = None,
    ) -> list[Hit]:
        query_vector = normalize(vector)
        if not is_text(space, bucket or "", prefix) or (dimensions := self._space_dimensions(space)) is None:
            return []
        check_dimensions(space, dimensions, len(query_vector))
        from google.cloud.firestore_v1.base_vector_query import DistanceMeasure
        from google.cloud.firestore_v1.vector import Vector

        with translate_errors():
            query = self._documents().where(filter=where("space", "==", space))
            if bucket is not None:
                query = query.where(filter=where("bucket", "==", bucket))
            if prefix:
                query = in_range(query, "name", names_with_prefix(prefix))
            nearest = query.select([*FIELDS, DISTANCE]).find_nearest(
                "vector",
                Vector(query_vector.tolist()),
                limit=k,
                distance_measure=DistanceMeasure.COSINE,
                distance_result_field=DISTANCE,
                distance_threshold=None if min_score is None else 1 - min_score,
            )
            documents = [snapshot.to_dict() for snapshot in nearest.get(**retry_options())]
        return [Hit(to_entry(document), 1 - document[DISTANCE]) for document in documents]

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        document = self._read(object_id(bucket, name))
        return to_entry(document) if document and not document["deleted"] else None

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[tuple[str, int, str]]:
        if not is_text(bucket, prefix):
            return
        names = names_with_prefix(prefix, within)
        if names.is_empty:
            return
        uris = names_with_prefix(
            object_uri(bucket, ""),
            NameRange(
                object_uri(bucket, names.start), None if names.end is None else object_uri(bucket, names.end)
            ),
        )
        with translate_errors():
            query = in_range(self._documents(), "uri", uris).order_by("uri").limit(PAGE_SIZE)
            query = query.select(["uri", "bucket", "name", "generation", "fingerprint", "deleted"])
        page: list[Any] = []
        while True:
            with translate_errors():
                page = list((query.start_after(page[-1]) if page else query).get(**retry_options()))
            for snapshot in page:
                document = snapshot.to_dict()
                if document["bucket"] == bucket and not document["deleted"]:
                    yield document["name"], document["generation"], document["fingerprint"]
            if len(page) < PAGE_SIZE:
                return

    def entries(self, space: str | None = None) -> Iterator[Entry]:
        if space is not None and not is_text(space):
            return
        with translate_errors():
            query = self._documents().order_by("uri").limit(PAGE_SIZE)
        page: list[Any] = []
        while True:
            with translate_errors():
                page = list((query.start_after(page[-1]) if page else query).get(**retry_options()))
            documents = (snapshot.to_dict() for snapshot in page)
            entries = (to_entry(document) for document in documents if not document["deleted"])
            yield from (entry for entry in entries if space in (None, entry.space))
            if len(page) < PAGE_SIZE:
                return

    def count(self, space: str | None = None) -> int:
        if space is not None and not is_text(space):
            return 0
        with translate_errors():
            documents = self._documents()
            condition = where("deleted", "==", False) if space is None else where("space", "==", space)
            counts = documents.where(filter=condition).count().get(**retry_options())
        return int(counts[0][0].value)

    def replacements(self) -> int:
        # Nothing tells of a collection that is deleted; a backfill makes up for it.
        return 0

    def _documents(self) -> Any:
        return self._client.get().collection(self._collection)

    def _read(self, id_: str) -> dict[str, Any] | None:
        with translate_errors():
            document: dict[str, Any] | None = self._documents().document(id_).get(**retry_options()).to_dict()
        return document

    def _upsert_batch(self, entries: Sequence[Entry]) -> list[bool]:
        ids = [object_id(entry.bucket, entry.name) for entry in entries]

        def decide(present: Documents, now: datetime) -> tuple[list[bool], Documents]:
            written: list[bool] = []
            changes: Documents = {}
            for id_, entry in zip(ids, entries, strict=True):
                written.append(may_replace(changes.get(id_) or present.get(id_), entry.generation, now))
                if written[-1]:
                    changes[id_] = entry_document(entry)
            return written, changes

        return self._change(list(dict.fromkeys(ids)), decide)

    def _change(self, ids: Sequence[str], decide: Callable[[Documents, datetime], tuple[T, Documents]]) -> T:
        """Write the documents that `decide` returns, all or none, and return its result.

        They are written only if the documents `ids` are still those that `decide` was given; otherwise it is
        called again. Transactions are not used, because their locks make other writers wait, even for each
        other.
        """
        client, collection = self._client.get(), self._documents()
        from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, NotFound

        deadline = time.monotonic() + CONFLICT_TIMEOUT
        while True:
            with translate_errors():
                read = client.get_all([collection.document(id_) for id_ in ids], **retry_options())
                snapshots = {snapshot.id: snapshot for snapshot in read if snapshot.exists}
                present = {id_: snapshot.to_dict() for id_, snapshot in snapshots.items()}
                result, changes = decide(present, datetime.now(UTC))
                batch = client.batch()
                for id_, fields in changes.items():
                    _replace(client, batch, collection.document(id_), snapshots.get(id_), fields)
                try:
                    batch.commit(**retry_options())
                    return result
                except (Aborted, AlreadyExists, FailedPrecondition, NotFound):
                    if time.monotonic() > deadline:
                        raise TransientError(
                            "Others write the same entries of the index; try again later."
                        ) from None
            time.sleep(random.uniform(0.005, 0.1))

    def _space_dimensions(self, space: str) -> int | None:
        if space not in self._dimensions:
            document = self._read(space_id(space))
            if document is None:
                return None
            self._dimensions[space] = document["dimensions"]
        return self._dimensions[space]

    def _claim_dimensions(self, entry: Entry) -> int:
        if (dimensions := self._space_dimensions(entry.space)) is not None:
            return dimensions
        from google.api_core.exceptions import AlreadyExists

        with translate_errors():
            try:
                reference = self._documents().document(space_id(entry.space))
                reference.create({"dimensions": len(entry.vector)}, **retry_options())
            except AlreadyExists:
                pass
        return self._claim_dimensions(entry)


def _replace(client: Any, batch: Any, reference: Any, snapshot: Any, fields: Mapping[str, Any]) -> None:
    """Add to `batch` the replacement of a document by `fields`.

    The batch fails if the document has changed since `snapshot` was read, or, where that is None, if the
    document exists by then.
    """
    from google.cloud.firestore import DELETE_FIELD

    if snapshot is None:
        batch.create(reference, fields)
        return
    removed = {field: DELETE_FIELD for field in snapshot.to_dict() if field not in fields}
    options = client.write_option(last_update_time=snapshot.update_time)
    batch.update(reference, {**removed, **fields}, options)
