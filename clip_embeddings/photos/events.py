"""What happens to the index when an object of the bucket is written or removed.

Events come at least once and in any order. Each is about one generation of one object, and the index lets no
older generation replace or remove a newer one, so that every order ends in the same index.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard
from urllib.parse import quote

from clip_embeddings.index.types import LARGEST, is_text
from clip_embeddings.logs import logger
from clip_embeddings.photos.collection import IndexedBucket
from clip_embeddings.photos.indexer import HARMLESS, Indexer, ObjectVersion, Rejected
from clip_embeddings.storage.types import BINARY, Stat

# What every time zone can say.
YEAR_9999 = 253_370_764_800


class DroppedError(Exception):
    """The event is not for us, or too old; the message says why."""


def finalized(data: object, when: object, indexer: Indexer) -> str:
    """Bring the index up to date with an object that was written; returns what became of it.

    Args:
        data: the event's, of type google.cloud.storage.object.v1.finalized.
        when: the time of the event, as RFC 3339.

    Raises:
        StorageError: the bucket or the index does not let us, or not now. The event must come again.
    """
    limit = indexer.runtime.settings.photos.max_event_age
    try:
        photo = read_event(data, when, indexer.collection, limit)
    except DroppedError as error:
        return _dropped("on_upload", data, error)
    collection = indexer.collection
    known = collection.index.get(collection.name, photo.name)
    if known and known.generation > photo.stat.generation:
        return _done("on_upload", photo, "superseded")
    if known and (known.generation, known.fingerprint) == (photo.stat.generation, indexer.fingerprint):
        return _done("on_upload", photo, "already there")
    loaded = indexer.load(photo)
    if isinstance(loaded, Rejected):
        # What the object was before is gone, whatever it is now.
        indexer.tombstone_older(loaded)
        return _done(
            "on_upload", photo, f"{loaded.code}: {loaded.message}", failed=loaded.code not in HARMLESS
        )
    (written,) = collection.index.upsert(indexer.entries([loaded]))
    return _done("on_upload", photo, "embedded" if written else "superseded")


def deleted(data: object, when: object, collection: IndexedBucket, max_age: float) -> str:
    """Take an object that was removed, or replaced, out of the index; returns what became of it.

    Args:
        data: the event's, of type google.cloud.storage.object.v1.deleted.
        when: the time of the event, as RFC 3339.
        max_age: seconds after which an event is dropped.

    Raises:
        StorageError: the index does not let us, or not now. The event must come again.
    """
    try:
        photo = read_event(data, when, collection, max_age)
    except DroppedError as error:
        return _dropped("on_delete", data, error)
    removed = collection.index.delete(collection.name, photo.name, photo.stat.generation)
    return _done("on_delete", photo, "removed" if removed else "superseded")


def read_event(data: object, when: object, collection: IndexedBucket, max_age: float) -> ObjectVersion:
    """The object that an event is about. Only bucket, name and generation need be there.

    Raises:
        DroppedError: the event is malformed, of another bucket or prefix, or older than `max_age` seconds.
    """
    fields: Mapping[str, Any] = data if isinstance(data, dict) else {}
    name, generation = fields.get("name"), _integer(fields.get("generation"))
    if not _is_text(name) or not _is_text(fields.get("bucket")) or not generation:
        raise DroppedError("it names no bucket, object and generation")
    if fields["bucket"] != collection.name:
        raise DroppedError("it is about another bucket")
    if not name.startswith(collection.prefix):
        raise DroppedError("it is about an object outside of BUCKET_PREFIX")
    happened = _seconds(when)
    if happened is not None and time.time() - happened > max_age:
        raise DroppedError(f"it is older than {max_age:g} seconds (MAX_EVENT_AGE); backfill makes up for it")
    updated = _seconds(fields.get("updated")) or _seconds(fields.get("timeCreated")) or happened
    claimed, metadata = fields.get("contentType"), fields.get("metadata")
    return ObjectVersion(
        name,
        Stat(
            generation=generation,
            # Unknown, it is bounded while it is read.
            size=_integer(fields.get("size")) or 0,
            content_type=claimed if _is_text(claimed) else BINARY,
            updated=time.time() if updated is None else updated,
            metadata=_texts(metadata) if isinstance(metadata, dict) else {},
        ),
    )


def _integer(value: object) -> int | None:
    """A whole number of at most 63 bits, which JSON has as a number or, as Google writes int64, a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 <= value <= LARGEST else None


def _seconds(value: object) -> float | None:
    """Seconds since the epoch of a time in RFC 3339."""
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if when is None:
        return None
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 < seconds < YEAR_9999 else None


def _is_text(value: object) -> TypeGuard[str]:
    # A lone surrogate, which JSON can hold, is no character: no bucket has it, and no index could.
    return isinstance(value, str) and value != "" and is_text(value)


def _texts(metadata: Mapping[Any, object]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if _is_text(key) and _is_text(value)}


def _done(function: str, photo: ObjectVersion, what: str, *, failed: bool = False) -> str:
    # Quoted, so that no name can write a line of its own.
    log = logger.warning if failed else logger.info
    log("%s %s generation %d: %s", function, quote(photo.name), photo.stat.generation, what)
    return what


def _dropped(function: str, data: object, error: DroppedError) -> str:
    name = data.get("name") if isinstance(data, dict) else None
    shown = quote(name[:1024], errors="replace") if isinstance(name, str) else "(no name)"
    logger.info("%s %s: the event was dropped, because %s.", function, shown, error)
    return f"dropped: {error}"
