"""What every client protocol is made of: endpoints that turn a request body into an `EmbedRequest`, and an
`EmbedResult` into a reply.

The msgspec structs that bodies are validated with are also what the OpenAPI document is made from. Nothing
here depends on HTTP: `clip_embeddings.http` reads bodies and sends replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, TowerResult
from clip_embeddings.errors import ApiError

T = TypeVar("T")

JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")
MULTIPART = ("multipart/form-data",)

Vector = Annotated[list[float], Meta(description="Numbers in float32 precision.")]
Vectors = Annotated[
    list[Vector], Meta(description="One vector per item, in the request's order; [] where it failed.")
]
# Items are validated one by one: an invalid item becomes an entry in `errors` and does not fail the request.
Texts = Annotated[list[Any], Meta(min_length=1, extra_json_schema={"items": {"type": "string"}})]
Images = Annotated[
    list[Any],
    Meta(
        min_length=1,
        description="http(s) or gs:// URLs, data URIs or, in `images`, bare base64.",
        extra_json_schema={"items": {"type": "string"}},
    ),
]


# A PNG of 4 x 4 pixels, for the examples of endpoints.
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAAAAACMmsGiAAAAHElEQVR42mNkEBAQYHQQEBBgcRAQEGA8"
    "ICAgAAAQRAIIemiTNgAAAABJRU5ErkJggg=="
)


class ItemError(msgspec.Struct):
    """Why one item has no vector."""

    input: str
    index: int
    code: str
    message: str


class Provenance(msgspec.Struct, kw_only=True):
    """Which model made the vectors."""

    model: str
    dimensions: int
    space: Annotated[str, Meta(description="Vectors are comparable only inside one space.")]
    fingerprint: Annotated[str, Meta(description="Changes with anything that may change a vector.")]


class VectorReply(Provenance, kw_only=True):
    """The vector of the only item."""

    embedding: Vector


class Options(msgspec.Struct, kw_only=True):
    """Options that accompany the items."""

    model: str | None = None
    normalize: bool = True


class ErrorDetail(msgspec.Struct):
    """What went wrong: a stable code, and a sentence for a person."""

    code: str
    message: str


class ErrorReply(msgspec.Struct):
    """The reply to a request that is wrong as a whole."""

    error: ErrorDetail


@dataclass(frozen=True)
class ErrorFormat:
    """How a protocol writes errors: the reply's body, and the type that documents it for a status."""

    write: Callable[[ApiError], Mapping[str, Any]]
    schema: Callable[[int], Any]


NATIVE_ERRORS = ErrorFormat(
    write=lambda error: {"error": {"code": error.code, "message": error.message}},
    schema=lambda status: ErrorReply,
)


@dataclass(frozen=True)
class Body:
    """A request body: how it is read, the content types that select it, and what it must look like.

    `kind` decides what `Endpoint.parse` is given: `json` and `form` an instance of `schema`, which is a
    msgspec struct; `file` an `UploadedFile`; `bytes` the bytes. For the last two `schema` is JSON Schema.
    """

    kind: Literal["json", "form", "file", "bytes"]
    media: tuple[str, ...]
    schema: Any
    # Ends the error message where a field is missing.
    hint: str = ""
    # The file's field in a multipart form.
    file_field: str = ""
    # HTTP status for a body that does not match the schema.
    invalid_status: int = 400


def json_body(schema: Any, *, invalid_status: int = 400) -> Body:
    """A JSON object that matches the struct `schema`."""
    return Body("json", JSON, schema, invalid_status=invalid_status)


# curl -d sends a form when no content type is given.
_FORM_HINT = " If it is JSON, send Content-Type: application/json."


def form_body(schema: Any) -> Body:
    """The text fields of a form, URL-encoded or multipart, that match the struct `schema`."""
    return Body("form", FORM, schema, hint=_FORM_HINT)


@dataclass(frozen=True)
class UploadedFile:
    """A file of a multipart form. `filename` is the client's claim, empty if there was none."""

    filename: str
    data: bytes


@dataclass(frozen=True)
class Endpoint:
    """One path of a protocol: how a request for vectors is parsed and its reply written."""

    # In the OpenAPI document.
    operation_id: str
    summary: str
    path: str
    body: Body
    # Struct that documents the reply.
    reply: Any
    # Body, as `Body.kind` says, to request. Raises ApiError; an invalid item is represented by its ApiError.
    parse: Callable[[Any, Limits], EmbedRequest]
    # The same body, and the vectors, to the reply. Raises the ApiError of an only item that failed.
    write: Callable[[Any, EmbedResult], Mapping[str, Any]]
    # Functions that serve it, by name, beside the gateway, which serves every endpoint.
    functions: tuple[str, ...]
    # A JSON value or form fields that are answered with status 200. None for a file and for bytes.
    example: Any = None


@dataclass(frozen=True)
class Protocol:
    """How one family of clients asks for vectors."""

    # As the setting PROTOCOL_MODELS spells it.
    name: str
    endpoints: tuple[Endpoint, ...] = field(repr=False)
    errors: ErrorFormat = NATIVE_ERRORS


def validate(value: object, struct: type[T], hint: str = "", *, where: str = "body") -> T:
    """`value`, read from JSON or a form, as `struct`. In a query string every value is text.

    Raises:
        ApiError: 400; the message says what is wrong and where, and ends with `hint` where a field is
            missing.
    """
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


def provenance(result: EmbedResult) -> dict[str, Any]:
    """The fields of `Provenance`. With two towers, `fingerprint` has one for each."""
    fingerprints = {
        tower: part.fingerprint
        for tower, part in (("text", result.texts), ("image", result.images))
        if part is not None
    }
    return {
        "model": result.model,
        "dimensions": result.dimensions,
        "space": result.space,
        "fingerprint": fingerprints if len(fingerprints) > 1 else next(iter(fingerprints.values())),
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
