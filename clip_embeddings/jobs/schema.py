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

from clip_embeddings.errors import ApiError
from clip_embeddings.protocols.base import ErrorFormat, Strings

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


class ZeroShotImageClassificationInput(msgspec.Struct):
    """A picture as in ImageEmbeddingInput, and the classes to choose from, at least one."""

    image: str
    # The original documents it as optional too, and fails without it.
    classes: Strings | UnsetType = UNSET
    config: Config = None


class BatchedZeroShotImageClassificationInput(msgspec.Struct):
    """Pictures, and the classes to choose from for each of them."""

    image: list[str]
    classes: Strings | UnsetType = UNSET
    config: Config = None


class ImageEmbeddingOutput(msgspec.Struct):
    """A picture's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | UnsetType = UNSET


class TextEmbeddingOutput(msgspec.Struct):
    """A text's vector; empty, with an `error`, if it failed."""

    embedding: list[float]
    error: JobError | UnsetType = UNSET


class ZeroShotImageClassificationOutput(msgspec.Struct):
    """How likely each class is, in their order, from 0 to 1; empty, with an `error`, if it failed."""

    probabilities: list[float]
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


class JobResponseZeroShotImageClassificationOutput(msgspec.Struct):
    """A job and, once it is complete, its result."""

    status: JobState
    result: ZeroShotImageClassificationOutput | UnsetType = UNSET
    error: JobError | UnsetType = UNSET


class BatchedJobResponseZeroShotImageClassificationOutput(msgspec.Struct):
    """A batched job and, once it is complete, its results in the order of its pictures."""

    status: JobState
    result: list[ZeroShotImageClassificationOutput] | UnsetType = UNSET
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


def write_error(error: ApiError) -> Mapping[str, Any]:
    """`{"detail": str}`; with status 422 `{"detail": [{"loc", "msg", "type"}]}`."""
    if error.status != 422:
        return {"detail": error.message}
    place = (error.where or "$").replace("[", ".").replace("]", "").split(".")[1:]
    loc = ["body", *(int(part) if part.isdigit() else part for part in place)]
    return {"detail": [{"loc": loc, "msg": error.message, "type": error.code}]}


ERRORS = ErrorFormat(write_error, lambda status: HTTPValidationError if status == 422 else Detail)
