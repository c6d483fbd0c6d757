"""What may accompany every request: `model` and `normalize` in the query string; and what a text may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import EmbedRequest


def with_query(ask: EmbedRequest, query: Mapping[str, str]) -> EmbedRequest:
    """`ask` with what the query string says of `model` and `normalize`; it outdoes the body.

    Raises:
        CallerError: 400 if `normalize` is neither true nor false.
    """
    if "model" in query:
        ask = replace(ask, model=query["model"])
    if "normalize" in query:
        normalize = query["normalize"].lower()
        if normalize not in ("true", "false", "1", "0"):
            raise ApiError(400, "normalize_invalid", "`normalize` must be true or false.")
        ask = replace(ask, normalize=normalize in ("true", "1"))
    return ask


def text_item(value: object, limits: Limits) -> str:
    """A text to embed; the empty string is one. Raises CallerError 400 or 413."""
    if not isinstance(value, str):
        raise ApiError(400, "text_not_a_string", "A text must be a string.")
    if len(value) > limits.text_chars:
        raise ApiError(
            413,
            "text_too_long",
            f"The text has {len(value):,} characters; {limits.text_chars:,} are allowed.",
        )
    return value
