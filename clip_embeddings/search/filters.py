"""From the filters of a request to the filter of an index."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time

from clip_embeddings.errors import ApiError
from clip_embeddings.index.types import Filter
from clip_embeddings.search.schema import Nearest

# https://www.rfc-editor.org/rfc/rfc3339#section-5.6
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
# The names of RFC 9110, section 5.6.2 (tokens), without the asterisk; or `type/*`.
_NAME = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"
_CONTENT_TYPE = re.compile(rf"{_NAME}/({_NAME}|\*)", re.ASCII)


def parse_filter(options: Nearest, bucket: str | None) -> Filter:
    """The filter that a request's options mean.

    Raises:
        ApiError: 400 `time_invalid` or `content_type_invalid`.
    """
    after, before = _parse_time(options.after, "after"), _parse_time(options.before, "before")
    if after and before and after >= before:
        message = "`after` must be earlier than `before`: nothing is between them."
        raise ApiError(400, "time_invalid", message, where="$.after")
    if options.content_type is not None and not _CONTENT_TYPE.fullmatch(options.content_type):
        message = "`content_type` must be a type such as `image/png`, without parameters, or `image/*`."
        raise ApiError(400, "content_type_invalid", message, where="$.content_type")
    return Filter(
        bucket=bucket,
        prefix=options.prefix,
        updated_from=after,
        updated_before=before,
        label=options.label,
        content_type=options.content_type,
    )


def _parse_time(text: str | None, name: str) -> datetime | None:
    """A time of RFC 3339, or the first moment of a date, in UTC."""
    if text is None:
        return None
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    hint = " In a link, write + as %2B." if re.search(r":\d\d \d\d:\d\d$", text) else ""
    message = (
        f"`{name}` must be a date such as 2026-05-04, or a time with its zone such as "
        f"2026-05-04T03:02:01Z (RFC 3339).{hint}"
    )
    raise ApiError(400, "time_invalid", message, where=f"$.{name}")
