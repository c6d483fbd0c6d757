"""What may accompany a request: `model` and `normalize` in a query string; and what a text may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from functions.config import Limits
from functions.errors import CallerError


class Options(TypedDict):
    """The fields of `Ask` that do not depend on the convention."""

    model: str | None
    normalize: bool


def query_options(query: Mapping[str, str]) -> Options:
    """`model` and `normalize` of a query string. Raises CallerError 400 if one is neither."""
    normalize = query.get("normalize", "true").lower()
    if normalize not in ("true", "false", "1", "0"):
        raise CallerError(400, "normalize_invalid", "`normalize` must be true or false.")
    return Options(model=query.get("model"), normalize=normalize in ("true", "1"))


def text_item(value: object, limits: Limits) -> str:
    """A text to embed; the empty string is one. Raises CallerError 400 or 413."""
    if not isinstance(value, str):
        raise CallerError(400, "text_not_a_string", "A text must be a string.")
    if len(value) > limits.text_chars:
        raise CallerError(
            413,
            "text_too_long",
            f"The text has {len(value):,} characters; {limits.text_chars:,} are allowed.",
        )
    return value
