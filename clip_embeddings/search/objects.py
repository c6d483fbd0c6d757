"""The objects of the index themselves: a small picture of one, or its own bytes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from urllib.parse import quote

from flask import Response

from clip_embeddings.config import ImageSettings
from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.formats import MEDIA_TYPES, detect_format
from clip_embeddings.index.types import Entry
from clip_embeddings.search.searcher import Searcher

# Seconds for which a browser may cache a picture whose URL names its generation. Bounded, because a photo
# that its owner removes should disappear.
CACHE_AGE = 24 * 3600
# Seconds for which a request may wait for memory and a CPU.
WAIT_SECONDS = 30.0
# A page of the same site may show it. By itself it runs and loads nothing, whatever its bytes are taken for.
PICTURE_POLICY = "default-src 'none'; sandbox"


def answer_thumbnail(context: RequestContext, searcher: Searcher) -> Response:
    """A small JPEG of an object. Raises ApiError."""
    query = context.read_query()
    entry = searcher.entry(query.uri)
    tag = f"{entry.generation}-{query.size}"
    response = _picture(context, entry, tag, query.generation, "image/jpeg", "default-src 'none'")
    if response.status_code == 200:
        response.set_data(_thumbnail(context, searcher, entry, query.size))
    return response


def answer_original(context: RequestContext, searcher: Searcher) -> Response:
    """The bytes of an object that is a picture. Raises ApiError."""
    if not context.runtime.settings.photos.originals:
        message = "Photos in full size are not served here; the setting SERVE_ORIGINALS allows it."
        raise ApiError(403, "originals_off", message)
    query = context.read_query()
    entry = searcher.entry(query.uri)
    # Its type is known once its bytes are.
    tag = f"{entry.generation}-original"
    response = _picture(context, entry, tag, query.generation, "image/*", PICTURE_POLICY)
    if response.status_code != 200:
        del response.headers["Content-Type"]
        return response
    runtime = context.runtime
    # What the client has not read yet is kept in the memory for bodies.
    largest = min(context.limits.image_bytes, runtime.memory.bodies.width)
    with ExitStack() as stack:
        deadline = time.monotonic() + WAIT_SECONDS
        memory = stack.enter_context(DownloadMemory(runtime.memory.downloads, largest, deadline))
        with context.timings.measure("fetch"):
            data = searcher.read(entry, memory.reserve(entry.size))
        # The type that the uploader declared may be another one, or that of a page with scripts.
        response.mimetype = MEDIA_TYPES[detect_format(data)]
        response.set_data(data)
        response.call_on_close(stack.pop_all().close)
    name = quote(entry.name.rpartition("/")[2].encode(errors="replace"), safe="")
    response.headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}"
    return response


def _picture(
    context: RequestContext, entry: Entry, tag: str, generation: int | None, mimetype: str, policy: str
) -> Response:
    """An empty response with the headers of a picture; its status is 304 if the client has it already, 412 if
    its `If-Match` names another one."""
    response = Response(mimetype=mimetype)
    response.set_etag(tag)
    caching = f"max-age={CACHE_AGE}" if generation == entry.generation else "no-cache"
    response.headers["Cache-Control"] = f"private, {caching}"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = policy
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.make_conditional(context.request)
    return response


def _thumbnail(context: RequestContext, searcher: Searcher, entry: Entry, size: int) -> bytes:
    # Imported late: only thumbnails need Pillow here.
    from clip_embeddings.images.thumbnails import thumbnail

    runtime, timings = context.runtime, context.timings
    deadline = time.monotonic() + WAIT_SECONDS
    # A JPEG is decoded at reduced size as long as both sides keep twice the target.
    target = (size + 1) // 2
    with DownloadMemory(runtime.memory.downloads, context.limits.image_bytes, deadline) as memory:
        with timings.measure("fetch"):
            data = searcher.read(entry, memory.reserve(entry.size))
        with (
            runtime.decoder.admit(data, target, settings=ImageSettings(), deadline=deadline) as decode,
            timings.measure("decode"),
        ):
            return thumbnail(decode(), size)
