"""The feature-extraction server's convention: jobs to submit and poll, and listings of models and tasks.

Operation ids and schema names are the original's, because its clients are generated from the document.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from clip_embeddings.config import Limits
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_image
from clip_embeddings.protocols.base import (
    EmbedRequest,
    EmbedResult,
    Errors,
    TowerResult,
    only_vector,
    parse_each,
    validate,
)
from clip_embeddings.protocols.options import text_item

# Which tower does a task, and which field of the body holds its input.
TASKS = {"image-embedding": "image", "text-embedding": "text"}
Config = dict[str, Any] | list[dict[str, Any]] | None


class JobState(enum.Enum):
    """How far a job is."""

    starting = "starting"
    running = "running"
    complete = "complete"
    failed = "failed"


class ModelState(enum.Enum):
    """How far a model is, on the instance that answers."""

    loading = "loading"
    running = "running"
    stopped = "stopped"
    failed = "failed"
    uninitialized = "uninitialized"
    starting = "starting"


class JobStatus(msgspec.Struct):
    """A job that was taken."""

    id: str
    status: JobState


class ModelStatus(msgspec.Struct):
    """A model's state; `jobs` is always empty, because ids are secrets."""

    status: ModelState
    jobs: list[str]


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


class ImageEmbeddingOutput(msgspec.Struct, omit_defaults=True):
    """A picture's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | None = None


class TextEmbeddingOutput(msgspec.Struct, omit_defaults=True):
    """A text's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | None = None


class JobResponseImageEmbeddingOutput(msgspec.Struct):
    """A job and, once it is complete, its result."""

    status: JobState
    result: ImageEmbeddingOutput | None = None
    error: JobError | None = None


class BatchedJobResponseImageEmbeddingOutput(msgspec.Struct):
    """A batched job and, once it is complete, its results in the order of its inputs."""

    status: JobState
    result: list[ImageEmbeddingOutput] | None = None
    error: JobError | None = None


class JobResponseTextEmbeddingOutput(msgspec.Struct):
    """A job and, once it is complete, its result."""

    status: JobState
    result: TextEmbeddingOutput | None = None
    error: JobError | None = None


class BatchedJobResponseTextEmbeddingOutput(msgspec.Struct):
    """A batched job and, once it is complete, its results in the order of its inputs."""

    status: JobState
    result: list[TextEmbeddingOutput] | None = None
    error: JobError | None = None


class ValidationError(msgspec.Struct):
    """What does not fit, and where."""

    loc: list[str | int]
    msg: str
    type: str


class HTTPValidationError(msgspec.Struct):
    """A request that does not fit its schema."""

    detail: list[ValidationError]


class Detail(msgspec.Struct):
    """A request that cannot be answered."""

    detail: str


# By tower: input, output and reply, single and batched.
INPUTS = {
    ("image", False): ImageEmbeddingInput,
    ("image", True): BatchedImageEmbeddingInput,
    ("text", False): TextEmbeddingInput,
    ("text", True): BatchedTextEmbeddingInput,
}
OUTPUTS = {"image": ImageEmbeddingOutput, "text": TextEmbeddingOutput}
REPLIES = {
    ("image", False): JobResponseImageEmbeddingOutput,
    ("image", True): BatchedJobResponseImageEmbeddingOutput,
    ("text", False): JobResponseTextEmbeddingOutput,
    ("text", True): BatchedJobResponseTextEmbeddingOutput,
}


def write_error(error: ApiError) -> Mapping[str, Any]:
    """`{"detail": str}`; with status 422 `{"detail": [{"loc", "msg", "type"}]}`."""
    if error.status != 422:
        return {"detail": error.message}
    place = (error.where or "$").replace("[", ".").replace("]", "").split(".")[1:]
    loc = ["body", *(int(part) if part.isdigit() else part for part in place)]
    return {"detail": [{"loc": loc, "msg": error.message, "type": error.code}]}


ERRORS = Errors(write_error, lambda status: HTTPValidationError if status == 422 else Detail)


def read_input(body: Mapping[str, Any], tower: str, batched: bool, limit: int) -> list[str]:
    """The texts or image references of a body; one unless `batched`.

    Raises:
        CallerError: 422 if the body does not fit, 413 for more than `limit` items.
    """
    struct: Any = INPUTS[tower, batched]
    try:
        value = getattr(validate(body, struct), tower)
    except ApiError as error:
        raise ApiError(422, error.code, error.message, where=error.where) from None
    if not value and batched:
        raise ApiError(422, "list_empty", f"`{tower}` must have at least one item.", where=f"$.{tower}")
    if batched and len(value) > limit:
        raise ApiError(413, "too_many_items", f"The job has {len(value):,} items; {limit:,} are allowed.")
    return list(value) if batched else [value]


def make_ask(items: list[str], tower: str, model: str, limits: Limits) -> EmbedRequest:
    """What a job wants embedded. A bad item stands as the error it deserves."""
    if tower == "text":
        return EmbedRequest(texts=parse_each(items, lambda item: text_item(item, limits)), model=model)
    images: list[Source | ApiError] = parse_each(items, lambda item: parse_image(item, limits.image_bytes))
    return EmbedRequest(images=images, model=model)


def write_result(answer: EmbedResult, batched: bool) -> Any:
    """`{"embedding": [f]}`, or a list of them. Raises the CallerError of a single item that failed."""
    part = answer.texts or answer.images
    assert part is not None
    return _outputs(part) if batched else {"embedding": only_vector(part)}


def _outputs(part: TowerResult) -> list[dict[str, Any]]:
    return [
        {"embedding": [], "error": {"code": result.code, "message": result.message}}
        if isinstance(result, ApiError)
        else {"embedding": result}
        for result in part.results
    ]
