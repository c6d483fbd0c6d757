"""The HTTP routes of search: by text, by picture, by an indexed object; and thumbnails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flask import Request, Response

from clip_embeddings.config import ImageSettings, Limits
from clip_embeddings.embedding import embed, only_vector
from clip_embeddings.http.provenance import make_headers, provenance_headers
from clip_embeddings.http.routing import Reply, RequestContext, Route
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.index.types import Entry
from clip_embeddings.protocols.base import json_body
from clip_embeddings.search import schema
from clip_embeddings.search.page import search_page
from clip_embeddings.search.searcher import Searcher

# Seconds for which a browser may cache a thumbnail whose URL names its generation. Bounded, because a photo
# that its owner removes should disappear.
THUMBNAIL_AGE = 24 * 3600
# Seconds for which a thumbnail may wait for memory and a CPU.
THUMBNAIL_SECONDS = 30.0


def search_routes(searcher: Searcher) -> tuple[Route, ...]:
    """Every route of search."""

    def search_body(context: RequestContext) -> Any:
        return _search(context, searcher, context.read_body, schema.parse_body)

    def search_link(context: RequestContext) -> Any:
        return _search(context, searcher, context.read_query, schema.parse_link)

    def similar(context: RequestContext) -> Any:
        return _similar(context, searcher)

    def thumbnail(context: RequestContext) -> Response:
        return _thumbnail(context, searcher)

    def page(request: Request) -> Response:
        return search_page(request, searcher.model_notice)

    return (
        Route(
            "POST",
            "/search",
            "search",
            "The objects nearest to a text or a picture",
            search_body,
            schema.SearchReply,
            body=json_body(schema.SearchBody),
            keys=("text", "image"),
            provenance=True,
            error_statuses=(400, 404, 408, 413, 415, 422, 429, 503),
            tag="search",
        ),
        Route(
            "GET",
            "/search",
            "search_link",
            "The objects nearest to a text",
            search_link,
            schema.SearchReply,
            query=schema.TextQuery,
            provenance=True,
            error_statuses=(400, 404, 413, 429, 503),
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
            query=schema.SimilarQuery,
            provenance=True,
            error_statuses=(400, 404, 503),
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
            reply_media="image/jpeg",
            query=schema.ThumbnailQuery,
            error_statuses=(400, 404, 413, 422, 429, 503),
            tag="search",
        ),
    )


def _search(
    context: RequestContext,
    searcher: Searcher,
    read: Callable[[], Any],
    parse: Callable[[Any, Limits], schema.SearchQuery],
) -> Any:
    with context.timings.measure("parse"):
        query = parse(read(), context.limits)
    # PROTOCOL_MODELS cannot name "search", so a request without a model uses the default one.
    result = embed(
        query.embed_request, context.runtime, context.timings, "search", check=context.check_connected
    )
    part = result.texts or result.images
    assert part is not None
    vector = only_vector(part)
    with context.timings.measure("search"):
        hits = searcher.nearest(vector, result.space, query.nearest, query.nearest.k)
        notice = None if hits else searcher.empty_notice(result.space)
    return Reply(schema.write(hits, result.model, result.space, notice), provenance_headers(result))


def _similar(context: RequestContext, searcher: Searcher) -> Any:
    query = context.read_query()
    with context.timings.measure("search"):
        entry = searcher.entry(query.uri)
        # One more, because the object itself is among the nearest.
        hits = searcher.nearest(entry.vector, entry.space, query, query.k + 1)
    others = [hit for hit in hits if hit.entry.uri != entry.uri]
    models = context.runtime.models.values()
    model = next((model.manifest.name for model in models if model.manifest.space == entry.space), None)
    headers = make_headers(
        model=model,
        dimensions=len(entry.vector),
        space=entry.space,
        fingerprint=entry.fingerprint,
    )
    return Reply(schema.write(others[: query.k], model, entry.space, None), headers)


def _thumbnail(context: RequestContext, searcher: Searcher) -> Response:
    query = context.read_query()
    entry = searcher.entry(query.uri)
    response = Response(mimetype="image/jpeg")
    response.set_etag(f"{entry.generation}-{query.size}")
    caching = f"max-age={THUMBNAIL_AGE}" if query.generation == entry.generation else "no-cache"
    response.headers["Cache-Control"] = f"private, {caching}"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.make_conditional(context.request)
    if response.status_code != 304:
        response.set_data(_thumbnail_bytes(context, searcher, entry, query.size))
    return response


def _thumbnail_bytes(context: RequestContext, searcher: Searcher, entry: Entry, size: int) -> bytes:
    # Imported late: only thumbnails need Pillow here.
    from clip_embeddings.images.thumbnails import thumbnail

    runtime, timings = context.runtime, context.timings
    deadline = time.monotonic() + THUMBNAIL_SECONDS
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
