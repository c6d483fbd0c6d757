"""Updates the index for the events of a bucket: an object was written, replaced or deleted.

Events arrive at least once and in any order. Each is about one generation of one object, and in the index no
older generation replaces or removes a newer one, so every order ends in the same index.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard
from urllib.parse import quote

from clip_embeddings.index.checks import MAX_GENERATION, is_text
from clip_embeddings.logs import logger
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.indexer import Indexer
from clip_embeddings.photos.types import SKIP_REASONS, UP_TO_DATE, ObjectVersion, Rejected
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES
from clip_embeddings.storage.types import BINARY, Stat

# Seconds since the epoch of 9999-01-01. A later time may be in the year 10000 in some time zone, which
# datetime cannot represent.
YEAR_9999 = 253_370_764_800


class DroppedError(Exception):
    """The event is invalid, too old, or about another bucket or prefix. The message says which."""


def handle_finalized(data: object, event_time: object, indexer: Indexer) -> str:
    """Bring the index up to date with an object that was written; returns the outcome, as logged.

    Args:
        data: the event's data, of type google.cloud.storage.object.v1.finalized.
        event_time: when the event happened, in RFC 3339.

    Raises:
        StorageError: the bucket or the index cannot be used now. The event must be delivered again.
    """
    indexed_bucket = indexer.indexed_bucket
    max_age = indexer.runtime.settings.photos.max_event_age
    try:
        version = read_event(data, event_time, indexed_bucket, max_age)
    except DroppedError as error:
        return _log_dropped("on_upload", data, error)
    entry = indexed_bucket.index.get(indexed_bucket.name, version.name)
    if entry and entry.generation > version.stat.generation:
        return _log_outcome("on_upload", version, "superseded")
    if entry and (entry.generation, entry.fingerprint) == (version.stat.generation, indexer.fingerprint):
        return _log_outcome("on_upload", version, UP_TO_DATE)
    loaded = indexer.load(version)
    if isinstance(loaded, Rejected):
        # The older generation was replaced, even if the new one cannot be embedded.
        indexer.tombstone_older(loaded)
        outcome = f"{loaded.code}: {loaded.message}"
        return _log_outcome("on_upload", version, outcome, failed=loaded.code not in SKIP_REASONS)
    (written,) = indexed_bucket.index.upsert(indexer.embed([loaded]))
    return _log_outcome("on_upload", version, "embedded" if written else "superseded")


def handle_deleted(data: object, event_time: object, indexed_bucket: IndexedBucket, max_age: float) -> str:
    """Remove an object that was deleted or replaced from the index; returns the outcome, as logged.

    Args:
        data: the event's data, of type google.cloud.storage.object.v1.deleted or .archived: the latter with
            the generation that was the live one, in a bucket with object versioning.
        event_time: when the event happened, in RFC 3339.
        max_age: seconds after which an event is dropped.

    Raises:
        StorageError: the index cannot be used now. The event must be delivered again.
    """
    try:
        version = read_event(data, event_time, indexed_bucket, max_age)
    except DroppedError as error:
        return _log_dropped("on_delete", data, error)
    removed = indexed_bucket.index.delete(indexed_bucket.name, version.name, version.stat.generation)
    return _log_outcome("on_delete", version, "removed" if removed else "superseded")


def read_event(
    data: object, event_time: object, indexed_bucket: IndexedBucket, max_age: float
) -> ObjectVersion:
    """The object of an event. Only `bucket`, `name` and `generation` are required in `data`.

    Raises:
        DroppedError: the event is malformed, of another bucket or prefix, or older than `max_age` seconds.
    """
    fields: Mapping[str, Any] = data if isinstance(data, dict) else {}
    name, generation = fields.get("name"), _parse_integer(fields.get("generation"))
    if not _is_text(name) or not _is_text(fields.get("bucket")) or not generation:
        raise DroppedError("it names no bucket, object and generation")
    if fields["bucket"] != indexed_bucket.name:
        other = quote(fields["bucket"][:MAX_OBJECT_NAME_BYTES], safe="/:")
        raise DroppedError(f"it is about another bucket, {other}; BUCKET_URL names {indexed_bucket.name}")
    if not name.startswith(indexed_bucket.prefix):
        raise DroppedError("it is about an object outside of BUCKET_PREFIX")
    happened = _parse_time(event_time)
    if happened is not None and time.time() - happened > max_age:
        raise DroppedError(f"it is older than {max_age:g} seconds (MAX_EVENT_AGE); backfill makes up for it")
    updated = _parse_time(fields.get("updated")) or _parse_time(fields.get("timeCreated")) or happened
    content_type, metadata = fields.get("contentType"), fields.get("metadata")
    return ObjectVersion(
        name,
        Stat(
            generation=generation,
            # 0 if the event has no size: reading is bounded in any case.
            size=_parse_integer(fields.get("size")) or 0,
            content_type=content_type if _is_text(content_type) else BINARY,
            updated=time.time() if updated is None else updated,
            metadata=_text_items(metadata) if isinstance(metadata, dict) else {},
        ),
    )


def _parse_integer(value: object) -> int | None:
    """A whole number of at most 63 bits: a JSON number, or a string, which is how Google writes int64."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_GENERATION else None


def _parse_time(value: object) -> float | None:
    """Seconds since the epoch of a time in RFC 3339; None for anything else and for the distant future."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 < seconds < YEAR_9999 else None


def _is_text(value: object) -> TypeGuard[str]:
    # JSON strings may contain lone surrogates. No bucket has such names, and no index can store them.
    return isinstance(value, str) and value != "" and is_text(value)


def _text_items(metadata: Mapping[Any, object]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if _is_text(key) and _is_text(value)}


def _log_outcome(function: str, version: ObjectVersion, outcome: str, *, failed: bool = False) -> str:
    # The name is quoted, so that a line break in it cannot start a new line of the log.
    log = logger.warning if failed else logger.info
    log("%s %s generation %d: %s", function, quote(version.name), version.stat.generation, outcome)
    return outcome


def _log_dropped(function: str, data: object, error: DroppedError) -> str:
    name = data.get("name") if isinstance(data, dict) else None
    quoted = quote(name[:MAX_OBJECT_NAME_BYTES], errors="replace") if isinstance(name, str) else "(no name)"
    logger.info("%s %s: the event was dropped, because %s.", function, quoted, error)
    return f"dropped: {error}"
