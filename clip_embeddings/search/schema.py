"""The search protocol: a text, a picture or an object of the index in, the nearest objects out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image
from clip_embeddings.index.types import Hit
from clip_embeddings.protocols.items import parse_text
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES

K = Annotated[int, Meta(ge=1, le=100, description="At most so many results.")]
Prefix = Annotated[
    str, Meta(max_length=MAX_OBJECT_NAME_BYTES, description="Only objects whose names start with this.")
]
MinScore = Annotated[float, Meta(ge=-1, le=1, description="Only results with at least this cosine.")]
Uri = Annotated[str, Meta(description="An object of the index, as in a result's `uri`.")]
# Pixels of a thumbnail's longer side. Up to this size, a thumbnail costs little more than reading the
# picture.
Size = Annotated[int, Meta(ge=16, le=1280, description="Pixels of the longer side, at most.")]


class Nearest(msgspec.Struct, kw_only=True):
    """Options of every search: how many results, and which."""

    k: K = 10
    prefix: Prefix = ""
    min_score: MinScore | None = None


class SearchBody(Nearest, kw_only=True):
    """A search by either `text` or `image`."""

    text: str | None = None
    image: Annotated[str | None, Meta(description="An http(s) or gs:// URL, a data URI or bare base64.")] = (
        None
    )
    model: str | None = None


class TextQuery(Nearest, kw_only=True):
    """A search by text in a link."""

    q: Annotated[str, Meta(min_length=1, description="What to look for.")]
    model: str | None = None


class SimilarQuery(Nearest, kw_only=True):
    """More like an object of the index."""

    uri: Uri


class ThumbnailQuery(msgspec.Struct, kw_only=True):
    """A small picture of an object of the index."""

    uri: Uri
    size: Size = 320
    generation: Annotated[
        int | None, Meta(description="The generation meant: the reply may then be kept for long.")
    ] = None


class Result(msgspec.Struct, kw_only=True):
    """An object of the index and its score."""

    uri: str
    score: Annotated[float, Meta(description="Cosine.")]
    generation: int
    content_type: str
    metadata: dict[str, str]
    thumbnail: Annotated[str, Meta(description="Path of a small picture; `&size=` sets its longer side.")]


class SearchReply(msgspec.Struct, kw_only=True):
    """The nearest objects, best first."""

    results: list[Result]
    model: Annotated[str | None, Meta(description="The model asked; null if none here makes this space.")]
    space: str
    notice: Annotated[str | None, Meta(description="Why there can be no results, for a person.")]


@dataclass(frozen=True)
class SearchQuery:
    """What to embed, and which of its neighbors to return."""

    embed_request: EmbedRequest
    nearest: Nearest


def parse_body(body: SearchBody, limits: Limits) -> SearchQuery:
    """`{"text": str}` or `{"image": str}`, with options."""
    if body.text is None and body.image is None:
        raise ApiError(400, "query_missing", "Send either `text` or `image`.")
    if body.text is not None and body.image is not None:
        raise ApiError(400, "query_ambiguous", "Send either `text` or `image`, not both.")
    if body.text is not None:
        return SearchQuery(EmbedRequest(texts=[_query_text(body.text, limits)], model=body.model), body)
    image = parse_image(body.image, limits.image_bytes)
    return SearchQuery(EmbedRequest(images=[image], model=body.model), body)


def parse_link(query: TextQuery, limits: Limits) -> SearchQuery:
    """`?q=...`, with options."""
    return SearchQuery(EmbedRequest(texts=[_query_text(query.q, limits)], model=query.model), query)


def write(hits: Sequence[Hit], model: str | None, space: str, notice: str | None) -> Mapping[str, Any]:
    """`{"results": [{"uri", "score", ...}], "model", "space", "notice"}`."""
    return {"results": [_result(hit) for hit in hits], "model": model, "space": space, "notice": notice}


def _result(hit: Hit) -> Mapping[str, Any]:
    entry = hit.entry
    return {
        "uri": entry.uri,
        "score": round(float(hit.score), 6),
        "generation": entry.generation,
        "content_type": entry.content_type,
        "metadata": dict(entry.metadata),
        # Contains the generation, because JavaScript cannot represent the large ones of files exactly.
        "thumbnail": f"/thumbnail?uri={quote(entry.uri, safe='')}&generation={entry.generation}",
    }


def _query_text(value: object, limits: Limits) -> str:
    text = parse_text(value, limits)
    if not text.strip():
        raise ApiError(400, "text_empty", "The text is empty: say what to look for.")
    return text
