"""An index in one Firestore collection. Honors FIRESTORE_EMULATOR_HOST.

Queries need the composite index (space, vector). Queries with a prefix need the index (space, name, vector).
Queries with a bucket need one of these with the field `bucket` added. Nothing else needs a composite index,
and the emulator needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.checks import (
    check_dimensions,
    check_entry,
    check_generation,
    check_labels,
    is_text,
    normalize,
)
from clip_embeddings.index.firestore_changes import Documents, change
from clip_embeddings.index.firestore_client import connect, retry_options, translate_errors
from clip_embeddings.index.firestore_documents import (
    FIELDS,
    LABEL_FIELDS,
    entry_document,
    in_range,
    is_expired,
    label_fields,
    may_replace,
    object_id,
    report_id,
    space_id,
    to_entry,
    tombstone_document,
    where,
)
from clip_embeddings.index.firestore_search import nearest, sample
from clip_embeddings.index.types import (
    EVERYTHING,
    MAX_RESULTS,
    Entry,
    Filter,
    IndexedVersion,
    LabelChange,
    QueryResult,
    names_with_prefix,
    object_uri,
)
from clip_embeddings.lazy import Lazy
from clip_embeddings.storage.types import ALL_NAMES, NameRange

T = TypeVar("T")

# Documents of one change: few, so that other writers seldom change the same ones.
BATCH_SIZE = 50

# Documents of one listing; a search yields no more, either.
PAGE_SIZE = 1000

VERSION_FIELDS = ("uri", "bucket", "name", "generation", "fingerprint", "label_set", "deleted")


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
        where: Filter = EVERYTHING,
        *,
        min_score: float | None = None,
        with_vectors: bool = False,
    ) -> QueryResult:
        query_vector = normalize(vector)
        if not is_text(space, *where.texts) or (dimensions := self._space_dimensions(space)) is None:
            return QueryResult([])
        check_dimensions(space, dimensions, len(query_vector))
        # Firestore has no index of vectors for every combination of filters, so it gets those of names only.
        limit = MAX_RESULTS if where.has_attributes else k
        hits = nearest(self._documents, query_vector, space, limit, where, min_score, with_vectors)
        matching = [hit for hit in hits if where.matches(hit.entry)][:k]
        return QueryResult(matching, is_complete=len(matching) == k or len(hits) < limit)

    def set_labels(self, changes: Sequence[LabelChange]) -> list[bool]:
        checked = [item._replace(labels=check_labels(item.labels, item.label_set)) for item in changes]
        written = []
        for start in range(0, len(checked), BATCH_SIZE):
            written += self._set_labels_batch(checked[start : start + BATCH_SIZE])
        return written

    def sample(self, space: str, count: int, *, bucket: str | None = None) -> list[Entry]:
        return sample(self._documents, space, count, bucket) if is_text(space, bucket or "") else []

    def write_report(self, name: str, parts: Sequence[bytes]) -> None:
        # Part 0 is written when all others are there: see Index.
        with translate_errors():
            documents = self._documents()
            for part, data in reversed(list(enumerate(parts))):
                documents.document(report_id(name, part)).set({"data": data}, **retry_options())
            surplus = len(parts)
            while documents.document(report_id(name, surplus)).get(**retry_options()).exists:
                documents.document(report_id(name, surplus)).delete(**retry_options())
                surplus += 1

    def read_report(self, name: str, part: int) -> bytes | None:
        document = self._read(report_id(name, part))
        return document["data"] if document else None

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        document = self._read(object_id(bucket, name))
        return to_entry(document) if document and not document["deleted"] else None

    def get_many(self, bucket: str, names: Sequence[str]) -> list[Entry | None]:
        ids = [object_id(bucket, name) if is_text(bucket, name) else "" for name in names]
        with translate_errors():
            collection = self._documents()
            references = [collection.document(id_) for id_ in dict.fromkeys(ids) if id_]
            fields = [*FIELDS, *LABEL_FIELDS, "deleted"]
            read = self._client.get().get_all(references, field_paths=fields, **retry_options())
            documents = {snapshot.id: snapshot.to_dict() for snapshot in read if snapshot.exists}
        present = {id_: to_entry(fields) for id_, fields in documents.items() if not fields["deleted"]}
        return [present.get(id_) for id_ in ids]

    def generations(
        self, bucket: str, prefix: str = "", within: NameRange = ALL_NAMES
    ) -> Iterator[IndexedVersion]:
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
            query = query.select(VERSION_FIELDS)
        page: list[Any] = []
        while True:
            with translate_errors():
                page = list((query.start_after(page[-1]) if page else query).get(**retry_options()))
            for snapshot in page:
                document = snapshot.to_dict()
                if document["bucket"] == bucket and not document["deleted"]:
                    yield IndexedVersion(
                        document["name"],
                        document["generation"],
                        document["fingerprint"],
                        document.get("label_set", ""),
                    )
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

    def _set_labels_batch(self, changes: Sequence[LabelChange]) -> list[bool]:
        ids = [
            object_id(item.bucket, item.name) if is_text(item.bucket, item.name) else "" for item in changes
        ]

        def decide(present: Documents, now: datetime) -> tuple[list[bool], Documents]:
            written: list[bool] = []
            documents: Documents = {}
            for id_, item in zip(ids, changes, strict=True):
                document = present.get(id_)
                is_present = bool(
                    document and not document["deleted"] and document["generation"] == item.generation
                )
                if document and is_present:
                    documents[id_] = document | label_fields(item.labels, item.label_set)
                written.append(is_present)
            return written, documents

        return self._change([id_ for id_ in dict.fromkeys(ids) if id_], decide)

    def _change(self, ids: Sequence[str], decide: Callable[[Documents, datetime], tuple[T, Documents]]) -> T:
        return change(self._client.get(), self._documents(), ids, decide)

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
