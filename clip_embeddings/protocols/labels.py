"""What protocols of zero-shot classification have in common: labels and templates of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.label_settings import PLACE
from clip_embeddings.protocols.items import parse_text

# Characters of a label that the reply repeats for each picture, at most. A text tower refuses most longer
# ones, but not many spaces: a reply with 256 pictures and as many labels of 10,000 of them would have 650 MB.
MAX_REPEATED_CHARS = 256


def parse_labels(
    values: Sequence[object],
    limits: Limits,
    field: str,
    *,
    distinct: bool = False,
    repeated: bool = False,
) -> list[str]:
    """The labels in the list `field`, at least one.

    With `distinct`, a label that comes twice is refused: it would take half of its own probability away.
    With `repeated`, so is one that is too long to be repeated for each picture.

    Raises:
        ApiError: 400 or 413, with the place of the first label that is wrong.
    """
    if not values:
        raise ApiError(400, "list_missing", f"`{field}` has no labels.", where=f"$.{field}")
    if repeated:
        limits = replace(limits, text_chars=min(limits.text_chars, MAX_REPEATED_CHARS))
    labels = _parse_list(values, lambda value: _parse_label(value, limits), field)
    if distinct:
        places: dict[str, int] = {}
        for index, label in enumerate(labels):
            if (first := places.setdefault(label.strip(), index)) != index:
                message = f"`{field}[{index}]` is the same as `{field}[{first}]`: send each label once."
                raise ApiError(400, "label_repeated", message, where=f"$.{field}[{index}]")
    return labels


def parse_templates(values: Sequence[object], limits: Limits, field: str) -> list[str]:
    """The templates in the list `field`, at least one, each with `{}`. Raises ApiError 400 or 413."""
    if not values:
        raise ApiError(400, "list_missing", f"`{field}` is an empty list.", where=f"$.{field}")
    return _parse_list(values, lambda value: parse_template(value, limits), field)


def parse_template(value: object, limits: Limits) -> str:
    """A text with `{}` in the place of the label. Raises ApiError 400 or 413."""
    template = parse_text(value, limits)
    if PLACE not in template:
        message = f"The template {template[:100]!r} has no {PLACE} in the place of the label."
        raise ApiError(400, "template_invalid", message)
    return template


def check_prompts(labels: Sequence[str], templates: Sequence[str], limits: Limits, field: str) -> None:
    """Check the prompts of the labels in the list `field`.

    Raises:
        ApiError: 413 for more prompts than a request may have items, or for one that is too long.
    """
    count = len(labels) * len(templates)
    if count > limits.items:
        message = (
            f"{len(labels):,} labels in {len(templates):,} templates make {count:,} prompts; "
            f"{limits.items:,} are allowed."
        )
        raise ApiError(413, "too_many_items", message)
    for index, label in enumerate(labels):
        # A template may have several places for the label.
        longest = max(len(text) + text.count(PLACE) * (len(label) - len(PLACE)) for text in templates)
        if longest > limits.text_chars:
            message = f"`{field}[{index}]` has a prompt of {longest:,} characters; {limits.text_chars:,} are "
            raise ApiError(413, "text_too_long", f"{message}allowed.", where=f"$.{field}[{index}]")


def _parse_label(value: object, limits: Limits) -> str:
    label = parse_text(value, limits)
    if not label.strip():
        raise ApiError(400, "label_empty", "A label must have at least one character.")
    return label


def _parse_list(values: Sequence[object], parse: Callable[[object], str], field: str) -> list[str]:
    """`parse` of each value. Raises the ApiError of the first one that is wrong, with its place."""
    parsed = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except ApiError as error:
            place = f"{field}[{index}]"
            message = f"`{place}`: {error.message}"
            raise ApiError(error.status, error.code, message, where=f"$.{place}") from None
    return parsed
