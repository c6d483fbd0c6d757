"""An index in one Firestore collection. FIRESTORE_EMULATOR_HOST is honoured.

An object's document is named by a hash and holds the fields of Entry and `uri`; `metadata` is JSON, because
its keys are the uploader's. A tombstone has neither `space` nor `vector`, but `expires`, for a TTL policy on
that field. One document more for each space says how many dimensions its vectors have.

Queries need the composite index (space, vector), with a prefix (space, name, vector), and with a bucket one
that has `bucket` too; all else needs none. The emulator answers without them.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np

from clip_embeddings.config import IndexSettings
from clip_embeddings.index.types import (
    Entry,
    Hit,
    check_dimensions,
    check_generation,
    checked,
    is_text,
    normalize,
    prefix_end,
    uri_of,
)
from clip_embeddings.lazy import Lazy
from clip_embeddings.storage.types import StorageError, TransientError

T = TypeVar("T")

# Fields of documents, by the documents' ids.
Documents = dict[str, dict[str, Any]]

# Seconds for one answer of the service, for all tries of one call, and for a change that others come between.
TIMEOUT = 10.0
TRIES = 15.0
PATIENCE = 30.0

# Documents of one change: few enough that others seldom change the same ones.
BATCH = 50

# Firestore answers no query with more.
PAGE = 1000

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

# Where a query's answer says how far a document is.
DISTANCE = "distance"


class FirestoreIndex:
    """The index in `collection` of a project's default database. See Index."""

    def __init__(
        self, project: str, collection: str, tombstone_ttl: float = IndexSettings.tombstone_ttl
    ) -> None:
        self._collection = collection
        self._tombstone_ttl = timedelta(seconds=tombstone_ttl)
        # Made by the first call, which must be in the process that serves: channels do not survive a fork.
        self._client: Lazy[Any] = Lazy(lambda: _connect(project))
        # Never change once they are set.
        self._dimensions: dict[str, int] = {}

    def upsert(self, entries: Sequence[Entry]) -> list[bool]:
        rows = [checked(entry) for entry in entries]
        for entry in rows:
            check_dimensions(entry.space, self._claim_dimensions(entry), len(entry.vector))
        written = []
        for start in range(0, len(rows), BATCH):
            written += self._upsert(rows[start : start + BATCH])
        return written

    def delete(self, bucket: str, name: str, generation: int, *, forget: bool = False) -> bool:
        check_generation(generation)
        if not is_text(bucket, name):
            return True
        key = _id(bucket, name)
        tombstone: dict[str, Any] = {"uri": uri_of(bucket, name), "bucket": bucket, "name": name}
        tombstone |= {"generation": 0 if forget else generation, "deleted": True}

        def decide(found: Documents, now: datetime) -> tuple[bool, Documents]:
            before = found.get(key)
            if before and not _expired(before, now) and before["generation"] > generation:
                return False, {}
            return True, {key: tombstone | {"expires": now + self._tombstone_ttl}}

        return self._change([key], decide)

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
        wanted = normalize(vector)
        if not is_text(space, bucket or "", prefix) or (dimensions := self._space_dimensions(space)) is None:
            return []
        check_dimensions(space, dimensions, len(wanted))
        from google.cloud.firestore_v1.base_vector_query import DistanceMeasure
        from google.cloud.firestore_v1.vector import Vector

        with _translate_errors():
            among = self._entries().where(filter=_where("space", "==", space))
            if bucket is not None:
                among = among.where(filter=_where("bucket", "==", bucket))
            if prefix:
                among = _starting(among, "name", prefix)
            nearest = among.select([*FIELDS, DISTANCE]).find_nearest(
                "vector",
                Vector(wanted.tolist()),
                limit=k,
                distance_measure=DistanceMeasure.COSINE,
                distance_result_field=DISTANCE,
                distance_threshold=None if min_score is None else 1 - min_score,
            )
            found = [document.to_dict() for document in nearest.get(**_retry_options())]
        return [Hit(_entry(each), 1 - each[DISTANCE]) for each in found]

    def get(self, bucket: str, name: str) -> Entry | None:
        if not is_text(bucket, name):
            return None
        with _translate_errors():
            found = self._entries().document(_id(bucket, name)).get(**_retry_options()).to_dict()
        return _entry(found) if found and not found["deleted"] else None

    def generations(self, bucket: str, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        if not is_text(bucket, prefix):
            return
        with _translate_errors():
            query = _starting(self._entries(), "uri", uri_of(bucket, prefix)).order_by("uri").limit(PAGE)
            query = query.select(["uri", "bucket", "name", "generation", "fingerprint", "deleted"])
        page: list[Any] = []
        while True:
            with _translate_errors():
                page = list((query.start_after(page[-1]) if page else query).get(**_retry_options()))
            for document in page:
                found = document.to_dict()
                if found["bucket"] == bucket and not found["deleted"]:
                    yield found["name"], found["generation"], found["fingerprint"]
            if len(page) < PAGE:
                return

    def count(self, space: str | None = None) -> int:
        if space is not None and not is_text(space):
            return 0
        wanted = ("deleted", False) if space is None else ("space", space)
        with _translate_errors():
            entries = self._entries()
            found = entries.where(filter=_where(wanted[0], "==", wanted[1])).count().get(**_retry_options())
        return int(found[0][0].value)

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        if self._client.made:
            self._client.get().close()
            self._client.clear()

    def _entries(self) -> Any:
        return self._client.get().collection(self._collection)

    def _upsert(self, rows: Sequence[Entry]) -> list[bool]:
        keys = [_id(entry.bucket, entry.name) for entry in rows]

        def decide(found: Documents, now: datetime) -> tuple[list[bool], Documents]:
            written: list[bool] = []
            changes: Documents = {}
            for key, entry in zip(keys, rows, strict=True):
                written.append(_may_replace(changes.get(key) or found.get(key), entry.generation, now))
                if written[-1]:
                    changes[key] = _document(entry)
            return written, changes

        return self._change(list(dict.fromkeys(keys)), decide)

    def _change(self, keys: Sequence[str], decide: Callable[[Documents, datetime], tuple[T, Documents]]) -> T:
        """Write what `decide` says, all or nothing, while what it decided on is still there; else again.

        No transaction: its locks make others wait, for each other too.
        """
        client, entries = self._client.get(), self._entries()
        from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, NotFound

        end = time.monotonic() + PATIENCE
        while True:
            with _translate_errors():
                read = client.get_all([entries.document(key) for key in keys], **_retry_options())
                found = {document.id: document for document in read if document.exists}
                result, changes = decide(
                    {key: each.to_dict() for key, each in found.items()}, datetime.now(UTC)
                )
                batch = client.batch()
                for key, fields in changes.items():
                    _replace(client, batch, entries.document(key), found.get(key), fields)
                try:
                    batch.commit(**_retry_options())
                    return result
                except (Aborted, AlreadyExists, FailedPrecondition, NotFound):
                    if time.monotonic() > end:
                        raise TransientError(
                            "Others write the same entries of the index; try again later."
                        ) from None
            time.sleep(random.uniform(0.005, 0.1))

    def _space_dimensions(self, space: str) -> int | None:
        if space not in self._dimensions:
            with _translate_errors():
                found = self._entries().document(_space_id(space)).get(**_retry_options()).to_dict()
            if found is None:
                return None
            self._dimensions[space] = found["dimensions"]
        return self._dimensions[space]

    def _claim_dimensions(self, entry: Entry) -> int:
        if (known := self._space_dimensions(entry.space)) is not None:
            return known
        from google.api_core.exceptions import AlreadyExists

        with _translate_errors():
            try:
                reference = self._entries().document(_space_id(entry.space))
                reference.create({"dimensions": len(entry.vector)}, **_retry_options())
            except AlreadyExists:
                pass
        return self._claim_dimensions(entry)


def _id(bucket: str, name: str) -> str:
    # Document ids cannot hold slashes, nor as many bytes as names have.
    return hashlib.sha256(f"{bucket}\0{name}".encode()).hexdigest()


def _space_id(space: str) -> str:
    return f"space-{hashlib.sha256(space.encode()).hexdigest()}"


def _starting(query: Any, field: str, prefix: str) -> Any:
    """Documents whose `field` starts with `prefix`."""
    query = query.where(filter=_where(field, ">=", prefix))
    end = prefix_end(prefix)
    return query if end is None else query.where(filter=_where(field, "<", end))


def _where(field: str, operator: str, value: object) -> Any:
    from google.cloud.firestore_v1.base_query import FieldFilter

    return FieldFilter(field, operator, value)


def _expired(found: Mapping[str, Any], now: datetime) -> bool:
    return bool(found["deleted"] and found["expires"] <= now)


def _may_replace(found: Mapping[str, Any] | None, generation: int, now: datetime) -> bool:
    if not found or _expired(found, now):
        return True
    older: bool = found["generation"] < generation
    return older or (found["generation"] == generation and not found["deleted"])


def _replace(client: Any, batch: Any, reference: Any, before: Any, fields: Mapping[str, Any]) -> None:
    """Write a whole document, if it is still as it was `before`: a snapshot, or None if there was none."""
    from google.cloud.firestore import DELETE_FIELD

    if before is None:
        batch.create(reference, fields)
        return
    gone = {field: DELETE_FIELD for field in before.to_dict() if field not in fields}
    batch.update(reference, {**gone, **fields}, client.write_option(last_update_time=before.update_time))


def _document(entry: Entry) -> dict[str, Any]:
    from google.cloud.firestore_v1.vector import Vector

    return {field: getattr(entry, field) for field in FIELDS} | {
        "uri": entry.uri,
        "updated": entry.updated.astimezone(UTC),
        "metadata": json.dumps(dict(entry.metadata)),
        "vector": Vector(entry.vector.tolist()),
        "deleted": False,
    }


def _entry(found: Mapping[str, Any]) -> Entry:
    values = {field: found[field] for field in FIELDS}
    vector = np.array(list(found.get("vector", ())), np.float32)
    return Entry(**values | {"metadata": json.loads(found["metadata"]), "vector": vector})


def _connect(project: str) -> Any:
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import firestore
    except ImportError:
        raise StorageError(
            "A firestore:// index needs the package google-cloud-firestore, which is not installed: "
            "pip install -r requirements/firestore.txt."
        ) from None
    try:
        return firestore.Client(project=project)
    except DefaultCredentialsError:
        raise StorageError("There are no credentials for Firestore here.") from None


def _retry_options() -> dict[str, Any]:
    from google.api_core.exceptions import DeadlineExceeded, InternalServerError, ServiceUnavailable
    from google.api_core.retry import Retry, if_exception_type

    # The package's own tries of a query go on for five minutes.
    passing = if_exception_type(DeadlineExceeded, InternalServerError, ServiceUnavailable)
    retry = Retry(passing, initial=0.1, maximum=2.0, multiplier=2.0, timeout=TRIES)
    return {"retry": retry, "timeout": TIMEOUT}


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise _translate(error) from error


def _translate(error: Exception) -> Exception:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    kind = type(error).__name__
    if isinstance(error, exceptions.FailedPrecondition):
        return StorageError("Firestore lacks an index that this query needs, or is not in native mode.")
    passing = (exceptions.ServerError, exceptions.Aborted, exceptions.TooManyRequests, exceptions.RetryError)
    if isinstance(error, passing) or (isinstance(error, GoogleAuthError) and error.retryable):
        return TransientError(f"Firestore did not answer well: {kind}.")
    if isinstance(error, (exceptions.GoogleAPIError, GoogleAuthError)):
        return StorageError(f"Firestore refused: {kind}.")
    return error
