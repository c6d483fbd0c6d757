"""The feature-extraction server's protocol: jobs to submit and poll, and listings of models and tasks.

Operation ids and schema names are the original server's, because its clients are generated from the OpenAPI
document.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, TowerResult, only_vector
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, ErrorFormat, json_body
from clip_embeddings.protocols.items import parse_each, parse_text, validate

# Task to tower, which is also the name of the body's field that holds the input.
TASKS = {"image-embedding": "image", "text-embedding": "text"}
Config = dict[str, Any] | list[dict[str, Any]] | None


class JobState(enum.Enum):
    """The progress of a job."""

    starting = "starting"
    running = "running"
    complete = "complete"
    failed = "failed"


class ModelState(enum.Enum):
    """The state of a model on the instance that answers."""

    loading = "loading"
    running = "running"
    stopped = "stopped"
    failed = "failed"
    uninitialized = "uninitialized"
    starting = "starting"


class JobStatus(msgspec.Struct):
    """A job that was accepted."""

    id: str
    status: JobState


class ModelStatus(msgspec.Struct):
    """A model's state; `jobs` is always empty, because ids are secrets."""

    status: ModelState
    jobs: list[JobStatus]


class JobError(msgspec.Struct):
    """Why a job, or one input of it, failed."""

    code: str
    message: str


class ImageEmbeddingInput(msgspec.Struct):
    """A picture: a data URI, base64, or an http(s) or gs:// URL."""

    image: str
    config: Config = None


class BatchedImageEmbeddingInput(msgspec.Struct):
    """Pictures, each as in ImageEmbeddingInput."""

    image: list[str]
    config: Config = None


class TextEmbeddingInput(msgspec.Struct):
    """A text."""

    text: str
    config: Config = None


class BatchedTextEmbeddingInput(msgspec.Struct):
    """Texts."""

    text: list[str]
    config: Config = None


class ImageEmbeddingOutput(msgspec.Struct):
    """A picture's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | UnsetType = UNSET


class TextEmbeddingOutput(msgspec.Struct):
    """A text's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | UnsetType = UNSET


# Neither `result` nor `error` is ever null: clients that were generated from the original's document fail on
# a null `result`.
class JobResponseImageEmbeddingOutput(msgspec.Struct):
    """A job and, once it is complete, its result."""

    status: JobState
    result: ImageEmbeddingOutput | UnsetType = UNSET
    error: JobError | UnsetType = UNSET


class BatchedJobResponseImageEmbeddingOutput(msgspec.Struct):
    """A batched job and, once it is complete, its results in the order of its inputs."""

    status: JobState
    result: list[ImageEmbeddingOutput] | UnsetType = UNSET
    error: JobError | UnsetType = UNSET


class JobResponseTextEmbeddingOutput(msgspec.Struct):
    """A job and, once it is complete, its result."""

    status: JobState
    result: TextEmbeddingOutput | UnsetType = UNSET
    error: JobError | UnsetType = UNSET


class BatchedJobResponseTextEmbeddingOutput(msgspec.Struct):
    """A batched job and, once it is complete, its results in the order of its inputs."""

    status: JobState
    result: list[TextEmbeddingOutput] | UnsetType = UNSET
    error: JobError | UnsetType = UNSET


class ValidationError(msgspec.Struct):
    """What is invalid, and where."""

    loc: list[str | int]
    msg: str
    type: str


class HTTPValidationError(msgspec.Struct):
    """A request that does not match its schema."""

    detail: list[ValidationError]


class Detail(msgspec.Struct):
    """A request that cannot be answered."""

    detail: str


# Input and reply by tower and whether the job is batched; output by tower.
INPUTS: dict[tuple[str, bool], Any] = {
    ("image", False): ImageEmbeddingInput,
    ("image", True): BatchedImageEmbeddingInput,
    ("text", False): TextEmbeddingInput,
    ("text", True): BatchedTextEmbeddingInput,
}
OUTPUTS: dict[str, Any] = {"image": ImageEmbeddingOutput, "text": TextEmbeddingOutput}
REPLIES: dict[tuple[str, bool], Any] = {
    ("image", False): JobResponseImageEmbeddingOutput,
    ("image", True): BatchedJobResponseImageEmbeddingOutput,
    ("text", False): JobResponseTextEmbeddingOutput,
    ("text", True): BatchedJobResponseTextEmbeddingOutput,
}


# Inputs that are answered, by tower.
EXAMPLES = {"image": EXAMPLE_IMAGE, "text": "birthday cake"}
BODIES = {key: json_body(struct, invalid_status=422) for key, struct in INPUTS.items()}


def write_error(error: ApiError) -> Mapping[str, Any]:
    """`{"detail": str}`; with status 422 `{"detail": [{"loc", "msg", "type"}]}`."""
    if error.status != 422:
        return {"detail": error.message}
    place = (error.where or "$").replace("[", ".").replace("]", "").split(".")[1:]
    loc = ["body", *(int(part) if part.isdigit() else part for part in place)]
    return {"detail": [{"loc": loc, "msg": error.message, "type": error.code}]}


ERRORS = ErrorFormat(write_error, lambda status: HTTPValidationError if status == 422 else Detail)


def read_items(body: Mapping[str, Any], tower: str, batched: bool, limit: int) -> list[str]:
    """The texts or image references of a stored body; one unless `batched`. Raises ApiError as `items_of`."""
    try:
        value = validate(body, INPUTS[tower, batched])
    except ApiError as error:
        raise ApiError(422, error.code, error.message, where=error.where) from None
    return items_of(value, tower, batched, limit)


def items_of(body: Any, tower: str, batched: bool, limit: int) -> list[str]:
    """The texts or image references of an input struct; one unless `batched`.

    Raises:
        ApiError: 422 for an empty list, 413 for more than `limit` items.
    """
    value = getattr(body, tower)
    if not value and batched:
        raise ApiError(422, "list_empty", f"`{tower}` must have at least one item.", where=f"$.{tower}")
    if batched and len(value) > limit:
        raise ApiError(413, "too_many_items", f"The job has {len(value):,} items; {limit:,} are allowed.")
    return list(value) if batched else [value]


def make_request(items: list[str], tower: str, model: str, limits: Limits) -> EmbedRequest:
    """The items of a job as a request. An invalid item is represented by its ApiError."""
    if tower == "text":
        return EmbedRequest(texts=parse_each(items, lambda item: parse_text(item, limits)), model=model)
    images = parse_each(items, lambda item: parse_image(item, limits.image_bytes))
    return EmbedRequest(images=images, model=model)


def write_result(result: EmbedResult, batched: bool) -> Any:
    """`{"embedding": [f]}`, or a list of them. Raises the ApiError of a single item that failed."""
    part = result.texts or result.images
    assert part is not None
    return _outputs(part) if batched else {"embedding": only_vector(part)}


def _outputs(part: TowerResult) -> list[dict[str, Any]]:
    return [
        {"embedding": [], "error": {"code": result.code, "message": result.message}}
        if isinstance(result, ApiError)
        else {"embedding": result}
        for result in part.results
    ]
