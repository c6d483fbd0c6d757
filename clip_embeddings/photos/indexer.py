"""Makes an entry of the index from an object of the bucket: reads, decodes and embeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from clip_embeddings.embedding import image_pixels
from clip_embeddings.engine.model import Model, normalize_rows
from clip_embeddings.errors import ApiError, ConfigError
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.index.types import Entry, LabelChange
from clip_embeddings.photos.indexed_bucket import IndexedBucket
from clip_embeddings.photos.tagger import Tagger, open_tagger
from clip_embeddings.photos.types import DecodedPhoto, EntryVersion, ObjectVersion, Rejected, Retag
from clip_embeddings.runtime import Runtime
from clip_embeddings.storage.types import NotFoundError, TooLargeError


@dataclass(frozen=True)
class Indexer:
    """Embeds the photos of `indexed_bucket` with `model`, and tags them."""

    indexed_bucket: IndexedBucket
    model: Model
    runtime: Runtime
    # None: photos get no labels.
    tagger: Tagger | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the entries: of the model's image tower and of how pictures are decoded."""
        return self.runtime.image_fingerprint(self.model)

    @property
    def entry_version(self) -> EntryVersion:
        """The fingerprint of the entries, and what identifies the labels that they are tagged with."""
        return EntryVersion(self.fingerprint, self.tagger.identity if self.tagger else "")

    def load(self, version: ObjectVersion) -> DecodedPhoto | Rejected:
        """Read an object, in exactly this generation, and decode it.

        Raises:
            StorageError: the bucket cannot be read. TransientError if another attempt may succeed.
        """
        limits, downloads = self.runtime.settings.limits, self.runtime.memory.downloads
        memory = DownloadMemory(downloads, limits.image_bytes, deadline=None)
        max_bytes = memory.max_bytes
        try:
            if version.stat.size > max_bytes:
                raise TooLargeError
            with memory:
                bucket, generation = self.indexed_bucket.bucket, version.stat.generation
                # An event may be wrong about the size.
                data, _ = bucket.read(version.name, generation=generation, max_bytes=memory.reserve())
                memory.shrink(len(data))
                pixels = image_pixels(data, self.model.image.get(), self.runtime)
                return DecodedPhoto(version, len(data), pixels)
        except NotFoundError:
            rejected = Rejected(version, "object_gone", "This generation is not in the bucket any more.")
        except TooLargeError:
            message = f"The image has more than {max_bytes:,} bytes."
            rejected = Rejected(version, "image_too_large", message)
        except ApiError as error:
            rejected = Rejected(version, error.code, error.message)
        # Returned outside the handlers, so that no traceback keeps the picture in memory.
        return rejected

    def embed(self, photos: Sequence[DecodedPhoto]) -> list[Entry]:
        """Run the model on one or more photos. Waits for a free slot, however long the queue is."""
        tower = self.model.image.get()
        vectors = normalize_rows(tower.embed([photo.pixels for photo in photos], background=True))
        version, tags = self.entry_version, self._tags(vectors)
        return [
            self._entry(photo, vector, labels, version)
            for photo, vector, labels in zip(photos, vectors, tags, strict=True)
        ]

    def stored(self, retag: Retag) -> Entry | None:
        """The entry that is to be tagged, with its vector; None if it was changed meanwhile.

        Raises:
            StorageError: the index cannot be read. TransientError if another attempt may succeed.
        """
        entry = self.indexed_bucket.index.get(self.indexed_bucket.name, retag.name)
        wanted = (retag.generation, self.fingerprint)
        return entry if entry and (entry.generation, entry.fingerprint) == wanted else None

    def tag(self, entries: Sequence[Entry]) -> list[LabelChange]:
        """The labels of entries by the vectors that they have."""
        label_set = self.entry_version.label_set
        tags = self._tags(np.stack([entry.vector for entry in entries]))
        return [
            LabelChange(entry.bucket, entry.name, entry.generation, labels, label_set)
            for entry, labels in zip(entries, tags, strict=True)
        ]

    def tombstone_older(self, rejected: Rejected) -> bool:
        """Remove what is older than a generation that cannot be embedded; False if the index has a newer one.

        Late events of older generations then change nothing. The rejected generation itself may still be
        embedded later, by a deployment with other limits.
        """
        version = rejected.version
        if rejected.transient or rejected.code == "object_gone":
            # Another attempt, or the event of the deletion or the replacement, will update the index.
            return False
        indexed_bucket = self.indexed_bucket
        return indexed_bucket.index.delete(indexed_bucket.name, version.name, version.stat.generation - 1)

    def _tags(self, vectors: np.ndarray) -> list[dict[str, float]]:
        return self.tagger.tags(vectors) if self.tagger else [{} for _ in vectors]

    def _entry(
        self, photo: DecodedPhoto, vector: np.ndarray, labels: Mapping[str, float], version: EntryVersion
    ) -> Entry:
        stat = photo.version.stat
        return Entry(
            bucket=self.indexed_bucket.name,
            name=photo.version.name,
            generation=stat.generation,
            content_type=stat.content_type,
            size=photo.size,
            updated=datetime.fromtimestamp(stat.updated, UTC),
            space=self.model.manifest.space,
            fingerprint=version.fingerprint,
            vector=vector,
            metadata=stat.metadata,
            labels=labels,
            label_set=version.label_set,
        )


def open_indexer(indexed_bucket: IndexedBucket, runtime: Runtime) -> Indexer:
    """An indexer with the deployment's model and labels.

    Raises:
        ConfigError: the model has no image tower, or the labels are of no use.
    """
    model = runtime.default_model()
    if "image" not in model.manifest.towers:
        raise ConfigError(f"The model {model.manifest.name} has no image tower: it cannot embed photos.")
    return Indexer(indexed_bucket, model, runtime, open_tagger(model, runtime))
