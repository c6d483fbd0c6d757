"""The HTTP routes of search: by text, by picture, by an indexed object; thumbnails and originals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Request, Response

from clip_embeddings.config import Limits
from clip_embeddings.http.routing import Reply, RequestContext, Route
from clip_embeddings.lazy import Lazy
from clip_embeddings.protocols.base import json_body
from clip_embeddings.search import queries, schema
from clip_embeddings.search.handlers import answer_search
from clip_embeddings.search.page import search_page
from clip_embeddings.search.searcher import Searcher

if TYPE_CHECKING:
    from clip_embeddings.search.collection_map import CollectionMap

BINARY = {"type": "string", "format": "binary"}


def search_routes(searcher: Searcher) -> tuple[Route, ...]:
    """Every route of search."""

    def search(
        read: Callable[[RequestContext], Any], parse: Callable[[Any, Limits], queries.SearchQuery]
    ) -> Callable[[RequestContext], Reply]:
        def handler(context: RequestContext) -> Reply:
            with context.timings.measure("parse"):
                query = parse(read(context), context.limits)
            return answer_search(context, searcher, query)

        return handler

    # What a first search does not need is imported by the first request that does.

    def thumbnail(context: RequestContext) -> Response:
        from clip_embeddings.search.objects import answer_thumbnail

        return answer_thumbnail(context, searcher)

    def original(context: RequestContext) -> Response:
        from clip_embeddings.search.objects import answer_original

        return answer_original(context, searcher)

    def collection(context: RequestContext) -> Any:
        from clip_embeddings.search.collection import answer_collection

        return answer_collection(context, searcher)

    def make_map() -> CollectionMap:
        from clip_embeddings.search.collection_map import CollectionMap

        return CollectionMap(searcher.index, searcher.bucket)

    collection_map = Lazy(make_map)

    def map_(context: RequestContext) -> Any:
        from clip_embeddings.search.collection_map import answer_map

        return answer_map(context, searcher, collection_map.get())

    def duplicates(context: RequestContext) -> Any:
        from clip_embeddings.search.duplicates import answer_duplicates

        return answer_duplicates(context, searcher)

    def page(request: Request) -> Response:
        return search_page(request, searcher.model_notice)

    return (
        Route(
            "POST",
            "/search",
            "search",
            "The objects nearest to a text, a picture, an object, or several of them",
            search(RequestContext.read_body, queries.parse_body),
            schema.SearchReply,
            body=json_body(schema.SearchBody),
            keys=("text", "image", "uri"),
            example=schema.SEARCH_EXAMPLE,
            provenance=True,
            error_statuses=(400, 404, 408, 413, 415, 422, 429, 503),
            tag="search",
        ),
        Route(
            "GET",
            "/search",
            "search_link",
            "The objects nearest to a text, an object, or both",
            search(RequestContext.read_query, queries.parse_link),
            schema.SearchReply,
            query=schema.LinkQuery,
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
            search(RequestContext.read_query, queries.parse_similar),
            schema.SearchReply,
            query=schema.SimilarQuery,
            provenance=True,
            error_statuses=(400, 404, 503),
            page=page,
            tag="search",
        ),
        Route(
            "GET",
            "/collection",
            "collection",
            "What can be searched here: how much, by which model, with which labels",
            collection,
            schema.CollectionReply,
            error_statuses=(503,),
            tag="search",
        ),
        Route(
            "GET",
            "/map",
            "map",
            "A map of the collection: points of a plane, near where objects are alike",
            map_,
            schema.MapReply,
            error_statuses=(400, 503),
            page=page,
            tag="search",
        ),
        Route(
            "GET",
            "/duplicates",
            "duplicates",
            "Groups of near-duplicates, as the command `duplicates` found them",
            duplicates,
            schema.DuplicatesReply,
            query=schema.DuplicatesQuery,
            error_statuses=(400, 503),
            page=page,
            tag="search",
        ),
        Route(
            "GET",
            "/thumbnail",
            "thumbnail",
            "A small picture of an object of the index",
            thumbnail,
            BINARY,
            reply_media="image/jpeg",
            query=schema.ThumbnailQuery,
            error_statuses=(400, 404, 413, 422, 429, 503),
            tag="search",
        ),
        Route(
            "GET",
            "/original",
            "original",
            "A picture of the index as it is, where the server allows it",
            original,
            BINARY,
            reply_media="image/*",
            query=schema.OriginalQuery,
            error_statuses=(400, 403, 404, 413, 422, 429, 503),
            tag="search",
        ),
    )
