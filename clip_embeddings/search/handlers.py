"""Answers a search: embeds what must be embedded, combines it, and asks the index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clip_embeddings.embedding import EmbedRequest, EmbedResult, embed
from clip_embeddings.errors import ApiError
from clip_embeddings.http.provenance import make_headers, provenance_headers
from clip_embeddings.http.routing import Reply, RequestContext
from clip_embeddings.index.checks import normalize
from clip_embeddings.index.types import Entry
from clip_embeddings.search import cursors, replies
from clip_embeddings.search.closeness import MIN_SAMPLE, measure_noise
from clip_embeddings.search.compose import compose, factors
from clip_embeddings.search.filters import parse_filter
from clip_embeddings.search.paging import Page, find_page
from clip_embeddings.search.queries import SearchQuery, digest
from clip_embeddings.search.searcher import Searcher

# PROTOCOL_MODELS cannot name it, so a request without a model uses the default one.
PROTOCOL = "search"


def answer_search(context: RequestContext, searcher: Searcher, query: SearchQuery) -> Reply:
    """The objects nearest to a query. Raises ApiError."""
    options = query.options
    where = parse_filter(options, searcher.bucket)
    entry = None if query.uri is None else searcher.entry(query.uri)
    space = _space(context, query, entry)
    query_digest = digest([query.digest.hex(), space])
    last = None if options.cursor is None else cursors.decode(options.cursor, query_digest)

    result = _embed(context, query)
    vectors = _vectors(query, entry, result)
    with context.timings.measure("search"):
        sample = searcher.samples.get(space)
        known = sample.vectors if sample and len(sample.vectors) >= MIN_SAMPLE else None
        composition, used = None, {}
        if query.is_composed:
            units = {part: normalize(vector) for part, vector in vectors.items()}
            used = factors(query.weights, units, known) if last is None else _of_parts(query, last.factors)
            composition = compose(used, units)
        vector = composition.vector if composition else next(iter(vectors.values()))
        page = find_page(
            lambda count: searcher.index.query(
                vector, space, count, where, min_score=options.min_score, with_vectors=query.is_composed
            ),
            options.k,
            last,
            query.uri,
        )
        notice = searcher.empty_notice(space) if entry is None and page.best_score is None else None
        noise = measure_noise(normalize(vector), known)
    model = result.model if result else _model_of(context, space)
    body = replies.write(
        page,
        cursor=_next_cursor(page, used, query_digest),
        noise=noise,
        composition=composition,
        model=model,
        space=space,
        notice=notice,
    )
    if result:
        return Reply(body, provenance_headers(result))
    assert entry is not None
    dimensions, fingerprint = len(entry.vector), entry.fingerprint
    return Reply(body, make_headers(model=model, dimensions=dimensions, space=space, fingerprint=fingerprint))


def _space(context: RequestContext, query: SearchQuery, entry: Entry | None) -> str:
    """The space to search. Raises ApiError 400 if the object and the model have different ones."""
    needs_model = query.texts or query.image is not None or query.model is not None
    if entry is not None and not needs_model:
        return entry.space
    manifest = context.runtime.choose(query.model, PROTOCOL).manifest
    if entry is not None and entry.space != manifest.space:
        message = (
            f"The object's vector is not of the model {manifest.name!r}: vectors of two models cannot be "
            "combined."
        )
        raise ApiError(400, "space_mismatch", message, where="$.uri")
    return manifest.space


def _embed(context: RequestContext, query: SearchQuery) -> EmbedResult | None:
    """The vectors of the texts and the picture; None if there are neither."""
    images = [] if query.image is None else [query.image]
    if not query.texts and not images:
        return None
    request = EmbedRequest(query.texts, images, model=query.model)
    return embed(request, context.runtime, context.timings, PROTOCOL, check=context.check_connected)


def _vectors(query: SearchQuery, entry: Entry | None, result: EmbedResult | None) -> Mapping[str, np.ndarray]:
    """The vector of each part, (d,) float32. Raises the ApiError of a part that has none."""
    texts = iter(result.texts.results if result and result.texts else ())
    images = iter(result.images.results if result and result.images else ())
    vectors: dict[str, np.ndarray] = {}
    for part in query.weights:
        if part == "uri":
            assert entry is not None
            vectors[part] = entry.vector
            continue
        vector = next(images if part == "image" else texts)
        if isinstance(vector, ApiError):
            raise vector.without_traceback()
        vectors[part] = vector
    return vectors


def _of_parts(query: SearchQuery, factors: Mapping[str, float]) -> dict[str, float]:
    return {part: factors[part] for part in query.weights}


def _next_cursor(page: Page, used: Mapping[str, float], query_digest: bytes) -> str | None:
    if not page.has_more or not page.hits:
        return None
    last = page.hits[-1]
    uri_hash = cursors.hash_uri(last.entry.uri)
    return cursors.encode(cursors.Cursor(page.rank, float(last.score), uri_hash, used), query_digest)


def _model_of(context: RequestContext, space: str) -> str | None:
    """The name of the model here that makes vectors of `space`, if there is one."""
    models = context.runtime.models.values()
    return next((model.manifest.name for model in models if model.manifest.space == space), None)
