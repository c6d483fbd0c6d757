"""Changes of documents that other writers may change at the same time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from clip_embeddings.index.firestore_client import retry_options, translate_errors
from clip_embeddings.storage.types import TransientError

T = TypeVar("T")

# Fields of documents, by the documents' ids.
Documents = dict[str, dict[str, Any]]

# Seconds for which a change is tried again while other writers change the same documents.
CONFLICT_TIMEOUT = 30.0


def change(
    client: Any,
    collection: Any,
    ids: Sequence[str],
    decide: Callable[[Documents, datetime], tuple[T, Documents]],
) -> T:
    """Write the documents that `decide` returns, all or none, and return its result.

    They are written only if the documents `ids` are still those that `decide` was given; otherwise it is
    called again. Transactions are not used, because their locks make other writers wait, even for each other.
    """
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
                replace(client, batch, collection.document(id_), snapshots.get(id_), fields)
            try:
                batch.commit(**retry_options())
                return result
            except (Aborted, AlreadyExists, FailedPrecondition, NotFound):
                if time.monotonic() > deadline:
                    raise TransientError(
                        "Others write the same entries of the index; try again later."
                    ) from None
        time.sleep(random.uniform(0.005, 0.1))


def replace(client: Any, batch: Any, reference: Any, snapshot: Any, fields: Mapping[str, Any]) -> None:
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
