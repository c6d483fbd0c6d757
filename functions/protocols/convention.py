"""What every client convention is made of: a request becomes an `Ask`, an `Answer` becomes a reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flask import Request

from functions.config import Limits
from functions.errors import CallerError
from functions.inputs.sources import Source


@dataclass(frozen=True)
class Ask:
    """What a client wants embedded. An item that is wrong in itself stands as the error it deserves."""

    texts: Sequence[str | CallerError] = ()
    images: Sequence[Source | CallerError] = ()
    model: str | None = None
    normalize: bool = True
    # What the client called its lists: `errors` speaks of them by these names.
    text_field: str = "texts"
    image_field: str = "images"
    # Fields that the reply repeats.
    echo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """One vector (d,) float32 or error per item, in the order of the request."""

    results: Sequence[np.ndarray | CallerError]
    fingerprint: str
    truncated: Sequence[int] = ()


@dataclass(frozen=True)
class Answer:
    """The vectors of an `Ask`, and which model made them."""

    model: str
    dimensions: int
    space: str
    texts: Embedded | None = None
    images: Embedded | None = None


@dataclass(frozen=True)
class Convention:
    """How one kind of client speaks at one path: `media` are the content types that choose it."""

    path: str
    media: tuple[str, ...]
    parse: Callable[[Request, Limits], Ask]
    write: Callable[[Ask, Answer], Mapping[str, Any]]


def labels(answer: Answer) -> dict[str, Any]:
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


def vectors_and_errors(part: Embedded, field: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """A row per item, `[]` where it failed, and the `errors` entries that say why."""
    rows: list[Any] = []
    errors: list[dict[str, Any]] = []
    for index, result in enumerate(part.results):
        if isinstance(result, CallerError):
            rows.append([])
            errors.append({"input": field, "index": index, "code": result.code, "message": result.message})
        else:
            rows.append(result)
    return rows, errors


def single(part: Embedded) -> np.ndarray:
    """The vector of the only item. Raises its CallerError if it failed."""
    (result,) = part.results
    if isinstance(result, CallerError):
        raise result.bare()
    return result
