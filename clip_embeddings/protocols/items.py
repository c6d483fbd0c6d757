"""What protocols do with the items of a request: validate a body, parse items, collect vectors and errors."""

from __future__ import annotations

import threading
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedResult, TowerResult
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.errors import ApiError

T = TypeVar("T")

_prepared: set[type] = set()
_preparing = threading.Lock()


def validate(value: object, struct: type[T], hint: str = "", *, where: str = "body") -> T:
    """`value`, read from JSON or a form, as `struct`. In a query string every value is text.

    Raises:
        ApiError: 400; the message says what is wrong and where, and ends with `hint` where a field is
            missing.
    """
    prepare_struct(struct)
    try:
        return msgspec.convert(value, struct, strict=where == "body")
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        path = path.strip("`") or "$"
        place = f" at {path}" if path != "$" else ""
        if (missing := reason.removeprefix("Object missing required field ")) != reason:
            message = f"The {where}{place} has no field {missing}.{hint}"
            raise ApiError(400, "field_missing", message, where=path) from None
        message = f"The {where} does not fit{place}: {reason}."
        raise ApiError(400, f"{where.partition(' ')[0]}_invalid", message, where=path) from None


def prepare_struct(struct: type) -> None:
    """Let msgspec look at `struct` in one thread, at its first use.

    It keeps what it has found of a class before it has found all, and another thread that uses that meanwhile
    ends the process.
    """
    if struct not in _prepared:
        with _preparing:
            msgspec.json.Decoder(struct)
            _prepared.add(struct)


def parse_text(value: object, limits: Limits) -> str:
    """A text to embed; the empty string is a valid one. Raises ApiError 400 or 413."""
    if not isinstance(value, str):
        raise ApiError(400, "text_not_a_string", "A text must be a string.")
    if len(value) > limits.text_chars:
        raise ApiError(
            413,
            "text_too_long",
            f"The text has {len(value):,} characters; {limits.text_chars:,} are allowed.",
        )
    return value


def parse_each(values: Sequence[object], parse: Callable[[object], T]) -> list[T | ApiError]:
    """`parse` of each value, or the ApiError that it raises."""
    parsed: list[T | ApiError] = []
    for value in values:
        try:
            parsed.append(parse(value))
        except ApiError as error:
            parsed.append(error.without_traceback())
    return parsed


def parse_all(values: Sequence[object], parse: Callable[[object], T], name: str = "") -> list[T]:
    """`parse` of each value, for protocols that have no place for the error of one item.

    Raises:
        ApiError: that of the first invalid value; see `item_error`.
    """
    parsed = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except ApiError as error:
            raise item_error(error, index, len(values), name) from None
    return parsed


def all_vectors(part: TowerResult, name: str = "") -> Sequence[np.ndarray]:
    """The vectors of all items. Raises the ApiError of the first item that failed, as `parse_all` does."""
    vectors = []
    for index, result in enumerate(part.results):
        if isinstance(result, ApiError):
            raise item_error(result, index, len(part.results), name)
        vectors.append(result)
    return vectors


def item_error(error: ApiError, index: int, count: int, name: str = "") -> ApiError:
    """The error of one item of `count`, with its index in front of the message unless it is the only one.

    `name` is that of the list, in requests with several lists, where the index alone would not tell which.
    """
    message = error.message if count == 1 else f"Item {index}: {error.message}"
    if name:
        message = f"`{name}[{index}]`: {error.message}"
    return ApiError(error.status, error.code, message, retry_after=error.retry_after, where=error.where)


def check_counts(texts: int, images: int, limits: Limits, most: int) -> None:
    """Raise ApiError 413 for too many items of a protocol that has a maximum of its own, `most`.

    Texts alone may be as many as it allows. With images, all items together have the limit of all protocols.
    """
    check_count(texts + images, limits.items if images else max(most, limits.items))


def check_count(count: int, most: int) -> None:
    """Raise ApiError 413 for more than `most` items."""
    if count > most:
        raise ApiError(413, "too_many_items", f"The request has {count:,} items; {most:,} are allowed.")


def mean_direction(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the directions of vectors, scaled to length 1: (d,) float32."""
    mean = normalize_rows(np.stack(vectors)).mean(axis=0, keepdims=True)
    direction: np.ndarray = normalize_rows(mean)[0]
    return direction


def base64_vector(vector: np.ndarray) -> str:
    """A vector as base64 of little-endian float32."""
    return b2a_base64(vector.astype("<f4", copy=False).tobytes(), newline=False).decode()


def fingerprints(result: EmbedResult) -> dict[str, str]:
    """The fingerprint of each tower that made vectors."""
    parts = (("text", result.texts), ("image", result.images))
    return {tower: part.fingerprint for tower, part in parts if part is not None}


def provenance(result: EmbedResult) -> dict[str, Any]:
    """The fields of `Provenance`, for the vectors of one tower."""
    return {
        "model": result.model,
        "dimensions": result.dimensions,
        "space": result.space,
        "fingerprint": next(iter(fingerprints(result).values())),
    }


def vectors_and_errors(part: TowerResult, field: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """A row per item, `[]` where it failed, and the entries of `errors`, which name the list `field`."""
    rows: list[Any] = []
    errors: list[dict[str, Any]] = []
    for index, result in enumerate(part.results):
        if isinstance(result, ApiError):
            rows.append([])
            errors.append({"input": field, "index": index, "code": result.code, "message": result.message})
        else:
            rows.append(result)
    return rows, errors
