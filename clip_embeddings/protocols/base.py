"""What every client convention is made of: a request becomes an `Ask`, an `Answer` becomes a reply.

The msgspec structs that conventions parse with are also what the OpenAPI document is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from flask import Request
from msgspec import Meta

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source

T = TypeVar("T")

Vector = Annotated[list[float], Meta(description="Numbers in float32 precision.")]
Vectors = Annotated[
    list[Vector], Meta(description="One vector per item, in the request's order; [] where it failed.")
]
# Items are judged one by one: a bad one is an entry in `errors`, not the end of the request.
Texts = Annotated[list[Any], Meta(min_length=1, extra_json_schema={"items": {"type": "string"}})]
Images = Annotated[
    list[Any],
    Meta(
        min_length=1,
        description="http(s) or gs:// URLs, data URIs or, in `images`, bare base64.",
        extra_json_schema={"items": {"type": "string"}},
    ),
]


class ItemError(msgspec.Struct):
    """Why one item has no vector."""

    input: str
    index: int
    code: str
    message: str


class Provenance(msgspec.Struct, kw_only=True):
    """Where the vectors come from."""

    model: str
    dimensions: int
    space: Annotated[str, Meta(description="Vectors are comparable only inside one space.")]
    fingerprint: Annotated[str, Meta(description="Changes with anything that may change a vector.")]


class ErrorDetail(msgspec.Struct):
    """What went wrong: a stable code, and a sentence for a person."""

    code: str
    message: str


class ErrorReply(msgspec.Struct):
    """The reply to a request that is wrong as a whole."""

    error: ErrorDetail


@dataclass(frozen=True)
class EmbedRequest:
    """What a client wants embedded. An item that is wrong in itself stands as the error it deserves."""

    texts: Sequence[str | ApiError] = ()
    images: Sequence[Source | ApiError] = ()
    model: str | None = None
    normalize: bool = True
    # What the client called its lists: `errors` speaks of them by these names.
    text_field: str = "texts"
    image_field: str = "images"
    # Fields that the reply repeats.
    echo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TowerResult:
    """One vector (d,) float32 or error per item, in the order of the request."""

    results: Sequence[np.ndarray | ApiError]
    fingerprint: str
    truncated: Sequence[int] = ()


@dataclass(frozen=True)
class EmbedResult:
    """The vectors of an `Ask`, and which model made them."""

    model: str
    dimensions: int
    space: str
    texts: TowerResult | None = None
    images: TowerResult | None = None


@dataclass(frozen=True)
class Body:
    """A request body: the content types that choose it, and its schema: a struct, or JSON Schema."""

    media: tuple[str, ...]
    schema: Any


@dataclass(frozen=True)
class Errors:
    """How a protocol words its errors: the reply, and the struct that documents it, by status."""

    write: Callable[[ApiError], Mapping[str, Any]]
    schemas: Callable[[int], Any]


NATIVE_ERRORS = Errors(
    write=lambda error: {"error": {"code": error.code, "message": error.message}},
    schemas=lambda status: ErrorReply,
)


@dataclass(frozen=True)
class Endpoint:
    """How one kind of client asks for vectors at one path."""

    # OpenAPI's operation id.
    operation: str
    summary: str
    path: str
    body: Body
    reply: Any
    parse: Callable[[Request, Limits], EmbedRequest]
    write: Callable[[EmbedRequest, EmbedResult], Mapping[str, Any]]
    # Its name in PROTOCOL_MODELS.
    protocol: str = "native"


JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")


def validate(value: object, struct: type[T], hint: str = "", *, where: str = "body") -> T:
    """`value`, read from JSON or a form, as `struct`. In a query string every value is a text.

    Raises:
        CallerError: 400; it says what does not fit and where, and ends with `hint` where a field is missing.
    """
    try:
        return msgspec.convert(value, struct, strict=where == "body")
    except msgspec.ValidationError as error:
        why, _, path = str(error).partition(" - at ")
        path = path.strip("`") or "$"
        place = f" at {path}" if path != "$" else ""
        if (missing := why.removeprefix("Object missing required field ")) != why:
            message = f"The {where}{place} has no field {missing}.{hint}"
            raise ApiError(400, "field_missing", message, where=path) from None
        message = f"The {where} does not fit{place}: {why}."
        raise ApiError(400, f"{where.partition(' ')[0]}_invalid", message, where=path) from None


def provenance(answer: EmbedResult) -> dict[str, Any]:
    """The keys that say where vectors come from. With two towers, `fingerprint` has one of each."""
    prints = {
        name: part.fingerprint
        for name, part in (("text", answer.texts), ("image", answer.images))
        if part is not None
    }
    return {
        "model": answer.model,
        "dimensions": answer.dimensions,
        "space": answer.space,
        "fingerprint": prints if len(prints) > 1 else next(iter(prints.values())),
    }


def vectors_and_errors(part: TowerResult, field: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """A row per item, `[]` where it failed, and the `errors` entries that say why."""
    rows: list[Any] = []
    errors: list[dict[str, Any]] = []
    for index, result in enumerate(part.results):
        if isinstance(result, ApiError):
            rows.append([])
            errors.append({"input": field, "index": index, "code": result.code, "message": result.message})
        else:
            rows.append(result)
    return rows, errors


def only_vector(part: TowerResult) -> np.ndarray:
    """The vector of the only item. Raises its CallerError if it failed."""
    (result,) = part.results
    if isinstance(result, ApiError):
        raise result.without_traceback()
    return result


def parse_each(values: Sequence[object], parse: Callable[[object], T]) -> list[T | ApiError]:
    """`parse` of each value, or the CallerError that it raises."""
    parsed: list[T | ApiError] = []
    for value in values:
        try:
            parsed.append(parse(value))
        except ApiError as error:
            parsed.append(error.without_traceback())
    return parsed
