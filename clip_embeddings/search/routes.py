"""The search convention's routes, over an index and the buckets whose objects are in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from flask import Response

from clip_embeddings.embedding import embed
from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext, Route
from clip_embeddings.index.factory import open_configured_index
from clip_embeddings.index.types import Entry, Hit, Index
from clip_embeddings.protocols.base import JSON, Body, only_vector
from clip_embeddings.runtime import Runtime, exit_on_config_error
from clip_embeddings.search import schema
from clip_embeddings.search.page import page
from clip_embeddings.storage.factory import open_bucket
from clip_embeddings.storage.types import Bucket, NotFoundError, TooLargeError

# Seconds for which a browser keeps a thumbnail whose address names its generation. Not for ever: who removes
# a photo wants it gone.
KEEP = 24 * 3600

EMPTY = "The index is empty: put pictures into the bucket, and they can be found a moment later."


@dataclass(frozen=True)
class Photos:
    """What is searched. `folder`: the bucket of this machine; only its objects are found then."""

    index: Index
    folder: Bucket | None

    def nearest(self, vector: np.ndarray, space: str, wanted: schema.Nearest, k: int) -> list[Hit]:
        """The `k` entries of `space` that are nearest to `vector` (d,), of those that are wanted."""
        bucket = self.folder.url if self.folder else None
        return self.index.query(
            vector, space, k, bucket=bucket, prefix=wanted.prefix, min_score=wanted.min_score
        )

    def entry(self, uri: str) -> Entry:
        """The entry of an object. Raises CallerError 404."""
        base = self.folder.url if self.folder else "gs://"
        rest = uri[len(base) :]
        bucket, name = (base, rest) if self.folder else rest.partition("/")[::2]
        entry = self.index.get(bucket, name) if uri.startswith(base) else None
        if entry is None:
            raise ApiError(404, "object_unknown", "There is no such object in the index.")
        return entry

    def read(self, entry: Entry, max_bytes: int) -> bytes:
        """The bytes of an object that is in the index, in the generation that is. Raises CallerError."""
        bucket = self.folder or _bucket(entry.bucket)
        try:
            return bucket.read(entry.name, generation=entry.generation, max_bytes=max_bytes)[0]
        except NotFoundError:
            message = "The object is no longer in the bucket, or has changed since it was indexed."
            raise ApiError(404, "object_gone", message) from None
        except TooLargeError:
            raise ApiError(413, "image_too_large", f"The object has more than {max_bytes:,} bytes.") from None


@cache
def _bucket(name: str) -> Bucket:
    return open_bucket(f"gs://{name}")


def open_photos(runtime: Runtime) -> Photos:
    """The index of this deployment; a wrong setup ends the process with a sentence."""
    settings = runtime.settings
    url = settings.photos.url or ""
    folder = open_bucket(url, externally_written=True) if url.startswith("file:") else None
    with exit_on_config_error(runtime.name):
        return Photos(open_configured_index(settings), folder)


def search_routes(photos: Photos) -> tuple[Route, ...]:
    """Every route of the convention."""

    def look(parse: Callable[..., schema.Search]) -> Callable[[RequestContext], Any]:
        def answer(call: RequestContext) -> Any:
            with call.timings.measure("parse"):
                asked = parse(call.request, call.runtime.settings.limits)
            answered = embed(asked.ask, call.runtime, call.timings, "search")
            part = answered.texts or answered.images
            assert part is not None
            vector = only_vector(part)
            with call.timings.measure("search"):
                hits = photos.nearest(vector, answered.space, asked.nearest, asked.nearest.k)
                notice = None if hits else _notice(photos, answered.space)
            return schema.write(hits, answered.model, answered.space, notice)

        return answer

    def similar(call: RequestContext) -> Any:
        asked = schema.parse_similar(call.request)
        with call.timings.measure("search"):
            entry = photos.entry(asked.uri)
            # The object itself is nearest, but for copies of it.
            hits = photos.nearest(entry.vector, entry.space, asked, asked.k + 1)
        others = [hit for hit in hits if hit.entry.uri != entry.uri]
        models = call.runtime.models.values()
        model = next((model.manifest.name for model in models if model.manifest.space == entry.space), None)
        return schema.write(others[: asked.k], model, entry.space, None)

    def thumbnail(call: RequestContext) -> Response:
        asked = schema.parse_thumbnail(call.request)
        entry = photos.entry(asked.uri)
        response = Response(mimetype="image/jpeg")
        response.set_etag(f"{entry.generation}-{asked.size}")
        kept = f"max-age={KEEP}" if asked.generation == entry.generation else "no-cache"
        response.headers["Cache-Control"] = f"private, {kept}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "default-src 'none'"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.make_conditional(call.request)
        if response.status_code != 304:
            response.set_data(_small(photos, entry, asked.size, call))
        return response

    return (
        Route(
            "POST",
            "/search",
            "search",
            "The objects nearest to a text or a picture",
            look(schema.parse_body),
            schema.SearchReply,
            body=Body(JSON, schema.SearchBody),
            faults=(400, 404, 408, 413, 415, 422, 429, 503),
            tag="search",
        ),
        Route(
            "GET",
            "/search",
            "search_link",
            "The objects nearest to a text",
            look(schema.parse_query),
            schema.SearchReply,
            parameters=schema.TextQuery,
            faults=(400, 404, 413, 429, 503),
            page=page,
            tag="search",
        ),
        Route(
            "GET",
            "/similar",
            "similar",
            "More like an object of the index",
            similar,
            schema.SearchReply,
            parameters=schema.SimilarQuery,
            faults=(400, 404, 503),
            page=page,
            tag="search",
        ),
        Route(
            "GET",
            "/thumbnail",
            "thumbnail",
            "A small picture of an object of the index",
            thumbnail,
            {"type": "string", "format": "binary"},
            media="image/jpeg",
            parameters=schema.ThumbnailQuery,
            faults=(400, 404, 413, 422, 429, 503),
            tag="search",
        ),
    )


def _small(photos: Photos, entry: Entry, size: int, call: RequestContext) -> bytes:
    # Imported late: a process that is never asked for a thumbnail needs no Pillow for it.
    from clip_embeddings.images.thumbnails import thumbnail

    limits = call.runtime.settings.limits
    with call.timings.measure("fetch"):
        data = photos.read(entry, limits.image_bytes)
    with call.runtime.decode_slots.acquire(), call.timings.measure("decode"):
        return thumbnail(data, size, limits.image_pixels)


def _notice(photos: Photos, space: str) -> str | None:
    """Why a search of `space` found nothing, if that is not for lack of likeness."""
    index = photos.index
    if photos.folder and next(index.generations(photos.folder.url), None) is None:
        return EMPTY
    if index.count(space):
        return None
    if others := index.count():
        return (
            f"The index was made with another model (pictures in it: {others:,}), and vectors of two models "
            "cannot be compared. Run `python -m functions.backfill` with the model that is served now."
        )
    return EMPTY
