"""The wire format of search: the structs of requests and replies, which the OpenAPI document is made from."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from clip_embeddings.index.types import MAX_LABEL_CHARS
from clip_embeddings.setting_values import MAX_OBJECT_NAME_BYTES

# Longer content types are none: RFC 6838, section 4.2, allows 127 characters on either side of the slash.
MAX_CONTENT_TYPE_CHARS = 255
# Longer cursors were not made here.
MAX_CURSOR_CHARS = 200
# A weight is a factor; one that is much larger leaves nothing of the other parts.
MAX_WEIGHT = 100.0

K = Annotated[int, Meta(ge=1, le=100, description="At most so many results in one reply.")]
Prefix = Annotated[
    str, Meta(max_length=MAX_OBJECT_NAME_BYTES, description="Only objects whose names start with this.")
]
MinScore = Annotated[float, Meta(ge=-1, le=1, description="Only results with at least this cosine.")]
After = Annotated[
    str, Meta(description="Only objects updated at this time or later: RFC 3339, or a date (0 h UTC).")
]
Before = Annotated[str, Meta(description="Only objects updated before this time: RFC 3339, or a date.")]
Label = Annotated[
    str, Meta(min_length=1, max_length=MAX_LABEL_CHARS, description="Only objects that carry this label.")
]
ContentType = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CONTENT_TYPE_CHARS,
        description="Only objects of this content type, such as `image/png`, or `image/*`.",
    ),
]
Cursor = Annotated[
    str,
    Meta(max_length=MAX_CURSOR_CHARS, description="`cursor` of the reply before, to get the results after."),
]
Uri = Annotated[str, Meta(description="An object of the index, as in a result's `uri`.")]
Not = Annotated[str, Meta(description="A text: what results should not show.")]
Weight = Annotated[float, Meta(ge=0, le=MAX_WEIGHT)]
# Pixels of a thumbnail's longer side. Up to this size, a thumbnail costs little more than reading the
# picture.
Size = Annotated[int, Meta(ge=16, le=1280, description="Pixels of the longer side, at most.")]
Generation = Annotated[
    int, Meta(description="The generation meant: the reply may then be kept for long, if it still is that.")
]

# A request that is answered wherever photos are.
SEARCH_EXAMPLE = {"text": "birthday cake", "k": 1}


class Nearest(msgspec.Struct, kw_only=True):
    """Options of every search: how many results, and which."""

    k: K = 10
    prefix: Prefix = ""
    min_score: MinScore | None = None
    after: After | None = None
    before: Before | None = None
    label: Label | None = None
    content_type: ContentType | None = None
    cursor: Cursor | None = None


class Weights(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much each part of a composed query counts; 1 for a part without one."""

    text: Weight | None = None
    image: Weight | None = None
    uri: Weight | None = None
    not_: Weight | None = msgspec.field(default=None, name="not")


class SearchBody(Nearest, kw_only=True):
    """A search by `text`, `image` and `uri`, by one of them or by several together, away from `not`."""

    text: str | None = None
    image: Annotated[str | None, Meta(description="An http(s) or gs:// URL, a data URI or bare base64.")] = (
        None
    )
    uri: Uri | None = None
    not_: Not | None = msgspec.field(default=None, name="not")
    weights: Weights | None = None
    model: str | None = None


class LinkQuery(Nearest, kw_only=True):
    """A search in a link: by a text, an object of the index, or both."""

    q: Annotated[str, Meta(min_length=1, description="What to look for.")] | None = None
    uri: Uri | None = None
    not_: Not | None = msgspec.field(default=None, name="not")
    model: str | None = None


class SimilarQuery(Nearest, kw_only=True):
    """More like an object of the index."""

    uri: Uri


class ThumbnailQuery(msgspec.Struct, kw_only=True):
    """A small picture of an object of the index."""

    uri: Uri
    size: Size = 320
    generation: Generation | None = None


class OriginalQuery(msgspec.Struct, kw_only=True):
    """An object of the index as it is."""

    uri: Uri
    generation: Generation | None = None


class Parts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What each part of a composed query adds to a result's score; that of `not` may be negative."""

    text: float | msgspec.UnsetType = msgspec.UNSET
    image: float | msgspec.UnsetType = msgspec.UNSET
    uri: float | msgspec.UnsetType = msgspec.UNSET
    not_: float | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="not")


class Object(msgspec.Struct, kw_only=True):
    """An object of the index."""

    uri: str
    generation: int
    content_type: str
    size: Annotated[int, Meta(description="Bytes.")]
    updated: Annotated[str, Meta(description="RFC 3339, in UTC.")]
    labels: Annotated[dict[str, float], Meta(description="What it shows: probabilities, best first.")]
    metadata: dict[str, str]
    thumbnail: Annotated[str, Meta(description="Path of a small picture; `&size=` sets its longer side.")]


class Result(Object, kw_only=True):
    """An object of the index and its score."""

    score: Annotated[float, Meta(description="Cosine.")]
    closeness: Annotated[
        float,
        Meta(description="0 for the collection's average score, 0.5 for `threshold`, 1 for twice as far."),
    ]
    parts: Annotated[
        Parts | None, Meta(description="For a composed query: what each part adds to the score.")
    ]


class SearchReply(msgspec.Struct, kw_only=True):
    """The nearest objects, best first."""

    results: list[Result]
    cursor: Annotated[
        str | None, Meta(description="For the results after these; null at the end, or after 1,000.")
    ]
    complete: Annotated[
        bool, Meta(description="False: the index filtered only its nearest 1,000; there may be more.")
    ]
    threshold: Annotated[
        float | None,
        Meta(description="The score from which a result is close; null if the collection is too small."),
    ]
    nothing_close: Annotated[bool, Meta(description="Whether no result reaches the threshold.")]
    model: Annotated[str | None, Meta(description="The model asked; null if none here makes this space.")]
    space: str
    notice: Annotated[str | None, Meta(description="Why there can be no results, for a person.")]


class LabelCount(msgspec.Struct, kw_only=True):
    """A label, and how many objects carry it."""

    label: str
    count: int


class CollectionReply(msgspec.Struct, kw_only=True):
    """What can be searched here."""

    count: Annotated[int, Meta(description="Objects whose vectors the model can compare.")]
    model: str
    space: str
    labels: Annotated[list[LabelCount], Meta(description="Most frequent first.")]
    sampled: Annotated[
        bool, Meta(description="Whether the labels were counted in a sample, and the counts are estimates.")
    ]
    originals: Annotated[bool, Meta(description="Whether `/original` is served.")]
    notice: Annotated[str | None, Meta(description="Why there can be no results, for a person.")]


class MapPoint(msgspec.Struct, kw_only=True):
    """An object of the index, near those that are like it."""

    uri: str
    generation: int
    x: Annotated[float, Meta(description="-1 to 1, left to right.")]
    y: Annotated[float, Meta(description="-1 to 1, top to bottom.")]
    thumbnail: Annotated[str, Meta(description="Path of a small picture; `&size=` sets its longer side.")]
    label: Annotated[str | None, Meta(description="What it most probably shows, if it was tagged.")]


class MapReply(msgspec.Struct, kw_only=True):
    """A map of the collection, or of a random sample of it."""

    points: list[MapPoint]
    count: Annotated[int, Meta(description="Objects of the collection; at most 1,000 are on the map.")]
    space: str
    notice: Annotated[str | None, Meta(description="Why there are no points, for a person.")]


class DuplicatesQuery(msgspec.Struct, kw_only=True):
    """Which groups of near-duplicates."""

    k: Annotated[int, Meta(ge=1, le=100, description="At most so many groups in one reply.")] = 10
    cursor: (
        Annotated[
            str,
            Meta(
                max_length=MAX_CURSOR_CHARS,
                description="`cursor` of the reply before, to get the groups after.",
            ),
        ]
        | None
    ) = None


class Duplicate(Object, kw_only=True):
    """A near-duplicate of the first member of its group."""

    score: Annotated[float, Meta(description="Cosine with the first member; 1 for that one.")]


class DuplicateGroup(msgspec.Struct, kw_only=True):
    """Objects that resemble the first one: the largest file, of equal ones the oldest."""

    score: Annotated[float, Meta(description="The least of the members' scores.")]
    count: Annotated[int, Meta(description="How many there were; `members` has at most 100.")]
    members: Annotated[list[Duplicate], Meta(description="Those that are unchanged, nearest first.")]


class DuplicatesReply(msgspec.Struct, kw_only=True):
    """Groups of near-duplicates, as the command found them: the most similar ones first."""

    groups: list[DuplicateGroup]
    cursor: Annotated[str | None, Meta(description="For the groups after these; null at the end.")]
    made: Annotated[str | None, Meta(description="When the command ran: RFC 3339, in UTC.")]
    threshold: Annotated[float | None, Meta(description="The least score that the command asked for.")]
    space: str
    notice: Annotated[str | None, Meta(description="Why there can be no groups, for a person.")]
