"""From an object of a bucket to an entry of the index: read, decode, embed, write."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from clip_embeddings.config import ConfigError
from clip_embeddings.embedding import image_pixels
from clip_embeddings.engine.model import IMAGE_ROWS, Model, normalize_rows
from clip_embeddings.errors import ApiError
from clip_embeddings.index.types import Entry
from clip_embeddings.photos.collection import IndexedBucket
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.types import NotFoundError, Stat, TooLargeError, TransientError

# Photos that are read and decoded ahead of the model, and entries of one transaction. Both bound memory.
AHEAD = 3 * IMAGE_ROWS
ROWS = 4 * IMAGE_ROWS

# An object that is no picture is not for the index; one that is gone or replaced has other events. Every
# other code is of a picture that should have been found.
HARMLESS = frozenset({"image_unsupported", "object_gone", "superseded"})


@dataclass(frozen=True)
class ObjectVersion:
    """One generation of an object, which may or may not be a picture."""

    name: str
    stat: Stat


@dataclass(frozen=True)
class Deletion:
    """An entry of the index whose object is gone."""

    name: str
    generation: int


# What makes the index agree with the bucket.
Change = ObjectVersion | Deletion


@dataclass(frozen=True)
class Pixels:
    """A photo, ready for the model."""

    photo: ObjectVersion
    # Bytes that were read.
    size: int
    # (3, h, w) float32.
    pixels: np.ndarray


@dataclass(frozen=True)
class Rejected:
    """A photo that cannot be embedded, now or ever. `code` and `message` are as in CallerError."""

    photo: ObjectVersion
    code: str
    message: str
    # Whether another try may go better.
    transient: bool = False


@dataclass
class Report:
    """What became of many photos."""

    embedded: int = 0
    removed: int = 0
    # By reason.
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    # The first few names of each reason in `failed`.
    examples: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, name: str, code: str) -> None:
        """Count one that was not embedded."""
        if code in HARMLESS:
            self.skipped[code] += 1
            return
        self.failed[code] += 1
        examples = self.examples.setdefault(code, [])
        if len(examples) < 3:
            examples.append(name)


@dataclass(frozen=True)
class Indexer:
    """Embeds photos of `collection` with `model`."""

    collection: IndexedBucket
    model: Model
    runtime: Runtime

    @property
    def fingerprint(self) -> str:
        """What every entry that is written gets: as an embedding's."""
        return self.runtime.image_fingerprint(self.model)

    def load(self, photo: ObjectVersion) -> Pixels | Rejected:
        """Read exactly that generation, and decode it.

        Raises:
            StorageError: the bucket does not let us read, or not now.
        """
        limits, refused = self.runtime.settings.limits, None
        try:
            if photo.stat.size > limits.image_bytes:
                raise TooLargeError
            bucket, generation = self.collection.bucket, photo.stat.generation
            data, _ = bucket.read(photo.name, generation=generation, max_bytes=limits.image_bytes)
            tower = self.model.image.get()
            with self.runtime.decode_slots.acquire(background=True):
                return Pixels(photo, len(data), image_pixels(data, tower, self.runtime))
        except NotFoundError:
            refused = Rejected(photo, "object_gone", "This generation is not in the bucket any more.")
        except TooLargeError:
            message = f"The image has more than {limits.image_bytes:,} bytes."
            refused = Rejected(photo, "image_too_large", message)
        except ApiError as error:
            refused = Rejected(photo, error.code, error.message)
        # Returned out here, the error's traceback does not keep the picture alive.
        return refused

    def entries(self, loaded: Sequence[Pixels]) -> list[Entry]:
        """Run the model over at least one photo. Waits for its turn, however long the queue is."""
        tower = self.model.image.get()
        vectors = normalize_rows(tower.embed([one.pixels for one in loaded], background=True))
        return [self._entry(one, vector) for one, vector in zip(loaded, vectors, strict=True)]

    def tombstone_older(self, refused: Rejected) -> bool:
        """Forget what is older than a generation that cannot be embedded; False if the index has a newer one.

        Late events of older ones change nothing then. The generation itself may still be embedded, by who
        has other limits.
        """
        photo = refused.photo
        if refused.transient or refused.code == "object_gone":
            # Either is told of by another event, or another try.
            return False
        return self.collection.index.delete(self.collection.name, photo.name, photo.stat.generation - 1)

    def _entry(self, one: Pixels, vector: np.ndarray) -> Entry:
        stat = one.photo.stat
        return Entry(
            bucket=self.collection.name,
            name=one.photo.name,
            generation=stat.generation,
            content_type=stat.content_type,
            size=one.size,
            updated=datetime.fromtimestamp(stat.updated, UTC),
            space=self.model.manifest.space,
            fingerprint=self.fingerprint,
            vector=vector,
            metadata=stat.metadata,
        )


def open_indexer(collection: IndexedBucket, runtime: Runtime) -> Indexer:
    """What embeds photos in this process.

    Raises:
        ConfigError: the deployment's model takes no pictures.
    """
    model = runtime.default_model()
    if "image" not in model.manifest.towers:
        raise ConfigError(f"The model {model.manifest.name} has no image tower: it cannot embed photos.")
    return Indexer(collection, model, runtime)


def apply(
    indexer: Indexer,
    changes: Iterable[Change],
    report: Report,
    refused: Callable[[Rejected], None] = lambda _: None,
) -> None:
    """Make many changes to the index: reading and decoding, the model, and writing run beside each other.

    Memory holds `AHEAD` decoded photos, the bytes of those being read, and two transactions' vectors.

    Args:
        report: is kept up to date, by another thread too.
        refused: is told of each photo that cannot be embedded, in that thread.

    Raises:
        StorageError: a person must act. What passes by itself is counted as failed.
    """
    with _Writer(indexer, report, refused) as writer:
        batch: list[Pixels] = []
        for loaded in _loaded(indexer, changes):
            if isinstance(loaded, Pixels):
                batch.append(loaded)
            else:
                writer.do(loaded)
            if len(batch) == IMAGE_ROWS:
                writer.write(indexer.entries(batch))
                batch = []
        if batch:
            writer.write(indexer.entries(batch))


def _loaded(indexer: Indexer, changes: Iterable[Change]) -> Iterator[Pixels | Rejected | Deletion]:
    def load(change: Change) -> Pixels | Rejected | Deletion:
        if isinstance(change, Deletion):
            return change
        try:
            return indexer.load(change)
        except TransientError as error:
            return Rejected(change, "storage_unavailable", str(error), transient=True)

    pool = ThreadPoolExecutor(indexer.runtime.settings.fetch.parallel, thread_name_prefix="photos")
    ahead: deque[Future[Pixels | Rejected | Deletion]] = deque()
    try:
        for change in changes:
            ahead.append(pool.submit(load, change))
            if len(ahead) == AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Writer:
    """Writes to the index in a thread of its own, so that the model does not wait for the disk."""

    def __init__(self, indexer: Indexer, report: Report, refused: Callable[[Rejected], None]) -> None:
        self._indexer = indexer
        self._report = report
        self._refused = refused
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._under_way: deque[Future[None]] = deque()
        self._entries: list[Entry] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # What was embedded is kept, whatever went wrong elsewhere.
            self._flush()
            self._wait(0)
        finally:
            self._pool.shutdown()

    def write(self, entries: Sequence[Entry]) -> None:
        self._entries += entries
        if len(self._entries) >= ROWS:
            self._flush()
            self._wait(1)

    def do(self, what: Rejected | Deletion) -> None:
        step = self._refuse if isinstance(what, Rejected) else self._remove
        self._under_way.append(self._pool.submit(step, what))  # type: ignore[arg-type]
        self._wait(AHEAD)

    def _flush(self) -> None:
        if self._entries:
            self._under_way.append(self._pool.submit(self._upsert, self._entries))
            self._entries = []

    def _wait(self, most: int) -> None:
        while len(self._under_way) > most:
            self._under_way.popleft().result()

    def _upsert(self, entries: Sequence[Entry]) -> None:
        try:
            written = self._indexer.collection.index.upsert(entries)
        except TransientError:
            for entry in entries:
                self._report.refuse(entry.name, "index_unavailable")
            return
        for entry, done in zip(entries, written, strict=True):
            if done:
                self._report.embedded += 1
            else:
                self._report.refuse(entry.name, "superseded")

    def _refuse(self, refused: Rejected) -> None:
        name, collection = refused.photo.name, self._indexer.collection
        try:
            # A tombstone for every object that is no picture would be many.
            if not refused.transient and collection.index.get(collection.name, name):
                self._report.removed += self._indexer.tombstone_older(refused)
        except TransientError:
            self._report.refuse(name, "index_unavailable")
        else:
            self._report.refuse(name, refused.code)
            self._refused(refused)

    def _remove(self, vanished: Deletion) -> None:
        collection = self._indexer.collection
        try:
            done = collection.index.delete(
                collection.name, vanished.name, vanished.generation, forget=collection.generations_recur
            )
            self._report.removed += done
        except TransientError:
            self._report.refuse(vanished.name, "index_unavailable")
