"""From the body or the link of a search to a `SearchQuery`: its parts, their weights, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_image
from clip_embeddings.protocols.items import parse_text
from clip_embeddings.search.schema import LinkQuery, Nearest, SearchBody, SimilarQuery, Weights

# What a query may be made of, in the order of the wire.
PARTS = ("text", "image", "uri", "not")
# The weight of a part that the request gives none. A picture says more than a few words do: with half their
# weight, words decide which of the similar pictures come first. See docs/photos-and-index.md.
DEFAULT_WEIGHTS: Mapping[str, float] = {"text": 1.0, "image": 0.5, "uri": 0.5, "not": 0.5}

# Characters that are hashed at once, so that the text of a large picture is not copied as a whole.
_CHUNK = 65_536


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for, and which of its neighbors to return."""

    text: str | None = None
    image: Source | None = None
    uri: str | None = None
    away_from: str | None = None
    # By the names of PARTS, of the parts that there are.
    weights: Mapping[str, float]
    model: str | None = None
    options: Nearest
    # Of everything but the model and the number of results: two queries that differ have different ones.
    digest: bytes

    @property
    def is_composed(self) -> bool:
        """Whether it has several parts."""
        return len(self.weights) > 1

    @property
    def texts(self) -> list[str]:
        """The texts to embed: `text`, then `not`."""
        return [text for text in (self.text, self.away_from) if text is not None]


def parse_body(body: SearchBody, limits: Limits) -> SearchQuery:
    """`{"text"?, "image"?, "uri"?, "not"?, "weights"?}` with options. Raises ApiError 400 or 413."""
    image = None if body.image is None else parse_image(body.image, limits.image_bytes)
    given = {"text": body.text, "image": body.image, "uri": body.uri, "not": body.not_}
    return _query(given, image, body.weights or Weights(), body.model, body, limits)


def parse_link(query: LinkQuery, limits: Limits) -> SearchQuery:
    """`?q=...&uri=...&not=...`, with options. Raises ApiError 400 or 413."""
    given = {"text": query.q, "image": None, "uri": query.uri, "not": query.not_}
    return _query(given, None, Weights(), query.model, query, limits)


def parse_similar(query: SimilarQuery, limits: Limits) -> SearchQuery:
    """`?uri=...`, with options."""
    given = {"text": None, "image": None, "uri": query.uri, "not": None}
    return _query(given, None, Weights(), None, query, limits)


def _query(
    given: Mapping[str, str | None],
    image: Source | None,
    weights: Weights,
    model: str | None,
    options: Nearest,
    limits: Limits,
) -> SearchQuery:
    if all(given[part] is None for part in PARTS if part != "not"):
        message = "Send `text`, `image` or `uri`, or several of them: what to look for."
        if given["not"] is not None:
            message = "`not` only says what results should not show: send `text`, `image` or `uri` with it."
        raise ApiError(400, "query_missing", message, where="$")
    for part in ("text", "not"):
        _check_text(given[part], part, limits)
    return SearchQuery(
        text=given["text"],
        image=image,
        uri=given["uri"],
        away_from=given["not"],
        weights=_weights(given, weights),
        model=model,
        options=options,
        digest=_digest(given, weights, options),
    )


def _check_text(text: str | None, part: str, limits: Limits) -> None:
    if text is None or parse_text(text, limits).strip():
        return
    message = "The text is empty: say what to look for."
    if part == "not":
        message = "`not` is empty: say what results should not show, or leave it out."
    raise ApiError(400, "text_empty", message, where=f"$.{part}")


def _weights(given: Mapping[str, str | None], weights: Weights) -> dict[str, float]:
    chosen = {}
    for part in PARTS:
        weight = getattr(weights, "not_" if part == "not" else part)
        if given[part] is not None:
            chosen[part] = DEFAULT_WEIGHTS[part] if weight is None else weight
        elif weight is not None:
            message = f"`weights` has a weight for `{part}`, but the query has no `{part}`."
            raise ApiError(400, "weights_invalid", message, where=f"$.weights.{part}")
    if not any(weight for part, weight in chosen.items() if part != "not"):
        message = "All weights of what to look for are 0: at least one must be more."
        raise ApiError(400, "weights_invalid", message, where="$.weights")
    return chosen


def _digest(given: Mapping[str, str | None], weights: Weights, options: Nearest) -> bytes:
    """16 bytes that identify the query."""
    values = (*given.values(), *msgspec.structs.astuple(weights), options.prefix, options.min_score)
    values += (options.after, options.before, options.label, options.content_type)
    # None and the empty text differ. Nothing is put in front of a text, which would copy that of a picture.
    missing = "".join("01"[value is None] for value in values)
    return digest([missing, *("" if value is None else str(value) for value in values)])


def digest(values: Iterable[str]) -> bytes:
    """16 bytes that identify a sequence of texts."""
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        state.update(b"%d:" % len(value))
        for start in range(0, len(value), _CHUNK):
            state.update(value[start : start + _CHUNK].encode(errors="surrogatepass"))
    return state.digest()
