"""What every client protocol is made of: endpoints that turn a request body into an `EmbedRequest`, and an
`EmbedResult` into a reply.

The msgspec structs that bodies are validated with are also what the OpenAPI document is made from. Nothing
here depends on HTTP: `clip_embeddings.http` reads bodies and sends replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from clip_embeddings.config import Limits, Settings
from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import Runtime

T = TypeVar("T")

JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")
MULTIPART = ("multipart/form-data",)

Vector = Annotated[list[float], Meta(description="Numbers in float32 precision.")]
Vectors = Annotated[
    list[Vector], Meta(description="One vector per item, in the request's order; [] where it failed.")
]
# A list whose items are validated one by one, so that an error names the item, or is an entry in `errors`.
Strings = Annotated[list[Any], Meta(extra_json_schema={"items": {"type": "string"}})]
Texts = Annotated[Strings, Meta(min_length=1)]
Images = Annotated[
    Strings,
    Meta(min_length=1, description="http(s) or gs:// URLs, data URIs or, in `images`, bare base64."),
]

# Texts of one request to OpenAI: https://platform.openai.com/docs/api-reference/embeddings/create. Protocols
# without a maximum of their own have it too.
OPENAI_MAX_ITEMS = 2048


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
    normalize: bool | msgspec.UnsetType = msgspec.UNSET

    def request(
        self, texts: Sequence[str | ApiError] = (), images: Sequence[Source | ApiError] = ()
    ) -> EmbedRequest:
        """A request for these items, with the options."""
        normalize = self.normalize if isinstance(self.normalize, bool) else None
        return EmbedRequest(texts, images, model=self.model, normalize=normalize)


class ErrorDetail(msgspec.Struct):
    """What went wrong: a stable code, and a sentence for a person."""

    code: str
    message: str


class ErrorReply(msgspec.Struct):
    """The reply to a request that is wrong as a whole."""

    error: ErrorDetail


class ErrorFormat(msgspec.Struct, frozen=True):
    """How a protocol writes errors: the reply's body, and the type that documents it for a status."""

    write: Callable[[ApiError], Mapping[str, Any]]
    schema: Callable[[int], Any]
    # Statuses by code, where that system has others than ours. They count in requests for vectors.
    statuses: Mapping[str, int] = msgspec.field(default_factory=dict)


class PlainErrorReply(msgspec.Struct):
    """What went wrong, as a sentence."""

    error: str


# For clients that print `error`.
PLAIN_ERRORS = ErrorFormat(
    write=lambda error: {"error": error.message}, schema=lambda status: PlainErrorReply
)
NATIVE_ERRORS = ErrorFormat(
    write=lambda error: {"error": {"code": error.code, "message": error.message}},
    schema=lambda status: ErrorReply,
)


class Body(msgspec.Struct, frozen=True):
    """A request body: how it is read, the content types that select it, and what it must look like.

    `kind` decides what `Endpoint.parse` is given: `json` and `form` an instance of `schema`, which is a
    msgspec struct; `file` an `UploadedFile`; `multipart` a `MultipartForm`; `bytes` the bytes. For the last
    three `schema` is JSON Schema.
    """

    kind: Literal["json", "form", "file", "multipart", "bytes"]
    media: tuple[str, ...]
    schema: Any
    # Appended to the error message if a field is missing.
    hint: str = ""
    # The fields of a multipart form that may hold the file.
    file_fields: tuple[str, ...] = ()
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


class RequestInfo(msgspec.Struct, frozen=True):
    """What an endpoint is told of a request beside its body."""

    limits: Limits
    # The values of the path's `{names}`.
    path_params: Mapping[str, str]
    # Milliseconds by stage, so far.
    timings: Timings
    # The dimensions of the model that answers a request which names this one, or none. Raises ApiError 404.
    dimensions: Callable[[str | None], int]
    # The towers that the function holds.
    towers: tuple[str, ...] = ("text", "image")


class UploadedFile(msgspec.Struct, frozen=True):
    """A file of a multipart form. `filename` is the client's claim, empty if there was none."""

    filename: str
    data: bytes


class MultipartForm(msgspec.Struct, frozen=True):
    """The text fields and the files of a multipart form, by the names of their fields."""

    fields: Mapping[str, str]
    files: Mapping[str, UploadedFile]


class Endpoint(msgspec.Struct, frozen=True):
    """One path of a protocol: how a request for vectors is parsed and its reply written."""

    # In the OpenAPI document.
    operation_id: str
    summary: str
    path: str
    body: Body
    # Struct that documents the reply.
    reply: Any
    # Turns the body, see `Body.kind`, into a request. Raises ApiError; an invalid item is represented by its
    # ApiError.
    parse: Callable[[Any, RequestInfo], EmbedRequest]
    # Turns the same body and the result into the reply. Raises the ApiError of an only item that failed.
    write: Callable[[Any, Any, RequestInfo], Any]
    # Functions that serve it, by name, beside the gateway, which serves every endpoint.
    functions: tuple[str, ...]
    # From what `parse` returns to what `write` is given, with the arguments of `embed`; None for `embed`.
    compute: Callable[..., EmbedResult] | None = None
    # Fields of a JSON body, any of which selects this endpoint where several share a path and a content type.
    # `a.b` is the field b of the object a.
    keys: tuple[str, ...] = ()
    # Whether the functions named above answer it at POST / too.
    at_root: bool = False
    # A further path, if a setting names one.
    setting_path: Callable[[Settings], str | None] | None = None
    # How errors are written, if not as by the protocol's other endpoints.
    errors: ErrorFormat | None = None
    # Statuses of errors beside those of every endpoint.
    further_statuses: tuple[int, ...] = ()
    # A JSON value, form fields or a multipart form that is answered with status 200. None for a file and for
    # bytes.
    example: Any = None


class Lookup(msgspec.Struct, frozen=True):
    """One path of a protocol that a GET request reads: what is served, and whether it is ready."""

    operation_id: str
    summary: str
    path: str
    # Type or JSON Schema that documents the reply.
    reply: Any
    # The served models and the values of the path's `{names}` to the reply. Raises ApiError.
    handler: Callable[[Runtime, Mapping[str, str]], Any]
    functions: tuple[str, ...]
    # Statuses of the caller's errors.
    error_statuses: tuple[int, ...] = ()
    # Status of the reply; 204 has no body.
    status: int = 200
    # Whether it is answered without the API key.
    public: bool = False
    # Content type of the reply.
    reply_media: str = "application/json"


class Protocol(msgspec.Struct, frozen=True):
    """How one family of clients asks for vectors."""

    # As the settings PROTOCOL_MODELS, ANY_MODEL_PROTOCOLS and RAW_PROTOCOLS spell it.
    name: str
    endpoints: tuple[Endpoint, ...]
    lookups: tuple[Lookup, ...] = ()
    errors: ErrorFormat = NATIVE_ERRORS
    # Heading in the OpenAPI document.
    tag: str = "embeddings"
