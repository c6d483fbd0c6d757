"""Pages of the stored groups of near-duplicates, without the objects that have changed since."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clip_embeddings.duplicates.report import StoredGroup, read_part
from clip_embeddings.errors import ApiError
from clip_embeddings.http.routing import RequestContext
from clip_embeddings.search.replies import DIGITS, write_object
from clip_embeddings.search.searcher import Searcher
from clip_embeddings.storage.factory import bucket_name

# Objects that one request looks up. A page with fewer groups than were asked for has a cursor all the same.
MAX_LOOKED_UP = 2000
# Groups that are looked up at once: each has up to MAX_MEMBERS.
BATCH = 20

NOTHING_YET = (
    "Nobody has looked for near-duplicates yet: run `python -m functions.duplicates` with this server's "
    "BUCKET_URL and INDEX_URL."
)

# The report's version, the number of a part, and that of its next group.
CURSOR = re.compile(r"([0-9a-f]{12})\.(\d{1,6})\.(\d{1,6})")


def answer_duplicates(context: RequestContext, searcher: Searcher) -> Mapping[str, Any]:
    """As `schema.DuplicatesReply` has it."""
    query = context.read_query()
    space, url = context.runtime.default_model().manifest.space, context.runtime.settings.photos.url
    version, number, position = _parse(query.cursor)
    with context.timings.measure("search"):
        bucket = bucket_name(url) if url else ""
        part = read_part(searcher.index, bucket, space, 0 if version is None else number)
        if version is not None and (part is None or part.summary.version != version):
            raise _changed()
        if part is None:
            empty: dict[str, Any] = dict.fromkeys(("cursor", "made", "threshold"))
            return {"groups": [], **empty, "space": space, "notice": NOTHING_YET}
        summary = part.summary
        groups: list[Mapping[str, Any]] = []
        looked_up = 0
        while True:
            batch = part.groups[position : position + min(BATCH, query.k - len(groups))]
            if batch:
                looked_up += sum(len(group.members) for group in batch)
                groups += _present(searcher, bucket, space, batch)
                position += len(batch)
            elif number + 1 < part.parts:
                following = read_part(searcher.index, bucket, space, number + 1)
                if following is None or following.summary.version != summary.version:
                    # Replaced meanwhile: the cursor is refused, and the client begins again.
                    has_more = True
                    break
                number, position, part = number + 1, 0, following
            has_more = position < len(part.groups) or number + 1 < part.parts
            if not has_more or len(groups) == query.k or looked_up >= MAX_LOOKED_UP:
                break
    return {
        "groups": groups,
        "cursor": f"{summary.version}.{number}.{position}" if has_more else None,
        "made": summary.made,
        "threshold": summary.threshold,
        "space": space,
        "notice": None,
    }


def _present(
    searcher: Searcher, bucket: str, space: str, groups: Sequence[StoredGroup]
) -> list[Mapping[str, Any]]:
    """The groups of which two members or more are as they were, with these members."""
    names = [member.name for group in groups for member in group.members]
    entries = iter(searcher.index.get_many(bucket, names))
    written: list[Mapping[str, Any]] = []
    for group in groups:
        members = [
            {**write_object(entry), "score": round(member.score, DIGITS)}
            for member, entry in zip(group.members, entries, strict=False)
            if entry and entry.generation == member.generation and entry.space == space
        ]
        if len(members) > 1:
            gone = len(group.members) - len(members)
            score = min(member["score"] for member in members)
            written.append({"score": score, "count": group.count - gone, "members": members})
    return written


def _parse(cursor: str | None) -> tuple[str | None, int, int]:
    if cursor is None:
        return None, 0, 0
    match = CURSOR.fullmatch(cursor)
    if match is None:
        message = "The cursor is damaged: send `cursor` of a reply as it is, or none for the first groups."
        raise ApiError(400, "cursor_invalid", message, where="$.cursor")
    version, number, position = match.groups()
    return version, int(number), int(position)


def _changed() -> ApiError:
    message = "Near-duplicates were looked for again since: start again without a cursor."
    return ApiError(400, "cursor_mismatch", message, where="$.cursor")
