"""The tasks of the feature-extraction server: what each takes, which towers it needs, what it answers.

vitrivr/feature-extraction-server has further tasks; these are the ones that the models served here can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult, embed
from clip_embeddings.engine.model import Model
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image
from clip_embeddings.jobs import schema
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, Body, json_body
from clip_embeddings.protocols.items import parse_each, parse_text

Results = Sequence[np.ndarray | ApiError]


class Task(msgspec.Struct, frozen=True):
    """One task."""

    # The field of an input that holds the item, or the list of items of a batched job.
    field: str
    # The towers of a model that does it.
    towers: tuple[str, ...]
    # From an input, its items and the model's name to a request. Raises ApiError; an invalid item is
    # represented by its ApiError.
    request: Callable[[Any, Sequence[str], str, Limits], EmbedRequest]
    # Takes the arguments of `embed`.
    compute: Callable[..., EmbedResult]
    # Numbers for each item (n,) float32, or its ApiError.
    results: Callable[[Any], Results]
    # The field of an output that holds them.
    output_field: str
    # Structs of an input, by whether the job is batched; of an output; and of a reply, as of an input.
    inputs: Mapping[bool, Any]
    output: Any
    replies: Mapping[bool, Any]
    # An input of a single job that is answered.
    example: Mapping[str, Any]
    # Fields of an input beside the items.
    options: tuple[str, ...] = ()
    # Raises ApiError for a model with these towers that cannot do it.
    check: Callable[[Model], object] | None = None

    def example_of(self, batched: bool) -> Mapping[str, Any]:
        """An input that is answered."""
        return {**self.example, self.field: [self.example[self.field]]} if batched else self.example

    def body(self, batched: bool) -> Body:
        """The body of a request for a job."""
        return json_body(self.inputs[batched], invalid_status=422)

    def has_towers(self, model: Model) -> bool:
        """Whether `model` has the towers for it."""
        return set(self.towers) <= set(model.manifest.towers)

    def is_done_by(self, model: Model) -> bool:
        """Whether `model` has all that it takes."""
        try:
            if self.check:
                self.check(model)
        except ApiError:
            return False
        return self.has_towers(model)

    def items(self, body: Any, batched: bool, limit: int) -> list[str]:
        """The texts or image references of an input; one unless `batched`.

        Raises:
            ApiError: 422 for an empty list, 413 for more than `limit` items.
        """
        value = getattr(body, self.field)
        if not value and batched:
            message = f"`{self.field}` must have at least one item."
            raise ApiError(422, "list_empty", message, where=f"$.{self.field}")
        if batched and len(value) > limit:
            raise ApiError(413, "too_many_items", f"The job has {len(value):,} items; {limit:,} are allowed.")
        return list(value) if batched else [value]

    def write(self, result: EmbedResult, batched: bool) -> Any:
        """An output, or a list of them. Raises the ApiError of a single item that failed."""
        outputs: list[dict[str, Any]] = []
        for row in self.results(result):
            if not isinstance(row, ApiError):
                outputs.append({self.output_field: row})
            elif not batched:
                raise row.without_traceback()
            else:
                error = {"code": row.code, "message": row.message}
                outputs.append({self.output_field: [], "error": error})
        return outputs if batched else outputs[0]


def _request_texts(body: Any, items: Sequence[str], model: str, limits: Limits) -> EmbedRequest:
    return EmbedRequest(texts=parse_each(items, lambda item: parse_text(item, limits)), model=model)


def _request_images(body: Any, items: Sequence[str], model: str, limits: Limits) -> EmbedRequest:
    images = parse_each(items, lambda item: parse_image(item, limits.image_bytes))
    return EmbedRequest(images=images, model=model)


def _vectors(result: EmbedResult) -> Results:
    part = result.texts or result.images
    assert part is not None
    return part.results


# Classification is imported at first use: few functions ever need it, and imports cost every cold start.
def _request_classes(body: Any, items: Sequence[str], model: str, limits: Limits) -> EmbedRequest:
    from clip_embeddings.classification import ClassifyRequest
    from clip_embeddings.protocols.labels import check_prompts, parse_labels

    # The original embeds the classes as they are, and its answer is always a softmax.
    templates = ["{}"]
    try:
        classes = parse_labels(() if body.classes is msgspec.UNSET else body.classes, limits, "classes")
        check_prompts(classes, templates, limits, "classes")
    except ApiError as error:
        raise error.with_status(422) from None
    images = _request_images(body, items, model, limits).images
    return ClassifyRequest(
        images=images,
        model=model,
        labels=classes,
        templates=templates,
        multi_label=False,
        labels_field="classes",
    )


def _classify(*arguments: Any, **options: Any) -> EmbedResult:
    from clip_embeddings.classification import classify

    return classify(*arguments, **options)


def _probabilities(result: Any) -> Results:
    probabilities: Results = result.probabilities
    return probabilities


def _check_scale(model: Model) -> None:
    from clip_embeddings.classification import logit_scale

    logit_scale(model)


TASKS = {
    "image-embedding": Task(
        field="image",
        towers=("image",),
        request=_request_images,
        compute=embed,
        results=_vectors,
        output_field="embedding",
        inputs={False: schema.ImageEmbeddingInput, True: schema.BatchedImageEmbeddingInput},
        output=schema.ImageEmbeddingOutput,
        replies={
            False: schema.JobResponseImageEmbeddingOutput,
            True: schema.BatchedJobResponseImageEmbeddingOutput,
        },
        example={"image": EXAMPLE_IMAGE},
    ),
    "text-embedding": Task(
        field="text",
        towers=("text",),
        request=_request_texts,
        compute=embed,
        results=_vectors,
        output_field="embedding",
        inputs={False: schema.TextEmbeddingInput, True: schema.BatchedTextEmbeddingInput},
        output=schema.TextEmbeddingOutput,
        replies={
            False: schema.JobResponseTextEmbeddingOutput,
            True: schema.BatchedJobResponseTextEmbeddingOutput,
        },
        example={"text": "birthday cake"},
    ),
    "zero-shot-image-classification": Task(
        field="image",
        towers=("text", "image"),
        request=_request_classes,
        compute=_classify,
        results=_probabilities,
        output_field="probabilities",
        inputs={
            False: schema.ZeroShotImageClassificationInput,
            True: schema.BatchedZeroShotImageClassificationInput,
        },
        output=schema.ZeroShotImageClassificationOutput,
        replies={
            False: schema.JobResponseZeroShotImageClassificationOutput,
            True: schema.BatchedJobResponseZeroShotImageClassificationOutput,
        },
        example={"image": EXAMPLE_IMAGE, "classes": ["birthday cake", "fire engine"]},
        options=("classes",),
        check=_check_scale,
    ),
}
