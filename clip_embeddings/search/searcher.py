"""Searches the index of a deployment, and reads the indexed objects from their buckets."""

from __future__ import annotations

from dataclasses import dataclass

from clip_embeddings.errors import ApiError
from clip_embeddings.index.factory import open_configured_index
from clip_embeddings.index.types import Entry, Index
from clip_embeddings.runtime import Runtime
from clip_embeddings.search.samples import Samples
from clip_embeddings.storage.factory import open_bucket, open_cloud_bucket
from clip_embeddings.storage.types import Bucket, NotFoundError, TooLargeError

EMPTY = "The index is empty: put pictures into the bucket, and they can be found a moment later."


@dataclass(frozen=True)
class Searcher:
    """An index and its objects. If `folder` is set, only its objects are returned."""

    index: Index
    samples: Samples
    # The local folder of the indexed objects. None: they are in Cloud Storage.
    folder: Bucket | None
    # A sentence for people where the model lacks a tower: which searches there are.
    model_notice: str | None = None
    # Why this process indexes no photos, if it would otherwise.
    photos_off: str | None = None

    @property
    def bucket(self) -> str | None:
        """The bucket whose objects are returned; None for every bucket of the index."""
        return self.folder.url if self.folder else None

    def entry(self, uri: str) -> Entry:
        """The entry of an object. Raises ApiError 404 if the index has none."""
        base = self.folder.url if self.folder else "gs://"
        rest = uri[len(base) :]
        bucket, name = (base, rest) if self.folder else rest.partition("/")[::2]
        entry = self.index.get(bucket, name) if uri.startswith(base) else None
        if entry is None:
            raise ApiError(404, "object_unknown", "There is no such object in the index.")
        return entry

    def read(self, entry: Entry, max_bytes: int) -> bytes:
        """The bytes of an indexed object, in the indexed generation. Raises ApiError 404 or 413."""
        bucket = self.folder or open_cloud_bucket(entry.bucket)
        try:
            return bucket.read(entry.name, generation=entry.generation, max_bytes=max_bytes)[0]
        except NotFoundError:
            message = "The object is no longer in the bucket, or has changed since it was indexed."
            raise ApiError(404, "object_gone", message) from None
        except TooLargeError:
            raise ApiError(413, "image_too_large", f"The object has more than {max_bytes:,} bytes.") from None

    def empty_notice(self, space: str) -> str | None:
        """Why a search of `space` cannot find anything; None if the space has entries.

        Raises:
            ApiError: 400 if the model that is served cannot index photos, and nobody else has.
        """
        is_empty = self.folder and next(self.index.generations(self.folder.url), None) is None
        if not is_empty and self.index.count(space):
            return None
        if self.photos_off:
            raise ApiError(400, "tower_missing", self.photos_off)
        if is_empty:
            return EMPTY
        if others := self.index.count():
            return (
                f"The index was made with another model (pictures in it: {others:,}), and vectors of two "
                "models cannot be compared. Run `python -m functions.backfill` with the model that is served "
                "now."
            )
        return EMPTY


def open_searcher(runtime: Runtime) -> Searcher:
    """The searcher of this deployment. Raises ConfigError if a package is missing."""
    settings = runtime.settings
    url = settings.photos.url or ""
    folder = open_bucket(url, externally_written=True) if url.startswith("file:") else None
    manifest = runtime.default_model().manifest
    notice = photos_off = None
    if "image" not in manifest.towers:
        notice = f"Photos are off: the model {manifest.name} has no image tower."
        # The photos of a bucket in the cloud may be indexed by another function.
        photos_off = None if url.startswith("gs:") else f"{notice} There is nothing to search."
    elif "text" not in manifest.towers:
        notice = f"Search with a picture: the model {manifest.name} has no text tower."
    index = open_configured_index(settings)
    samples = Samples(index, folder.url if folder else None)
    return Searcher(index, samples, folder, notice, photos_off)
