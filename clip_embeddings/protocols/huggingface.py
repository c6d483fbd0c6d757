"""Hugging Face's task zero-shot-image-classification: a picture and labels in, labels with scores out.

Sources: huggingface/huggingface_hub, src/huggingface_hub/inference: _client.py (the method of that name),
_providers/hf_inference.py (what it sends) and _generated/types/zero_shot_image_classification.py;
huggingface/transformers, src/transformers/pipelines/zero_shot_image_classification.py (template, softmax or
sigmoid, order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings.classification import (
    ClassifyRequest,
    ClassifyResult,
    best_first,
    classify,
    only_probabilities,
)
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import parse_image
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    PLAIN_ERRORS,
    Endpoint,
    Protocol,
    RequestInfo,
    Strings,
    json_body,
)
from clip_embeddings.protocols.labels import check_prompts, parse_labels, parse_template

# The pipeline's default.
TEMPLATE = "This is a photo of {}."
LABELS = "parameters.candidate_labels"


class ZeroShotParameters(msgspec.Struct):
    """The labels to choose from, and the sentence that they are put into."""

    candidate_labels: Annotated[
        str | Strings, Meta(description="Older clients send one text with commas between the labels.")
    ]
    hypothesis_template: Annotated[
        str | None, Meta(description=f"A sentence with {{}} for the label; by default {TEMPLATE!r}.")
    ] = None


class ZeroShotBody(msgspec.Struct):
    """A picture in base64, as a data URI or a URL, and labels. Older clients call it `image`."""

    parameters: ZeroShotParameters
    inputs: str | None = None
    image: str | None = None


class LabelScore(msgspec.Struct):
    """A label, and how likely it is, from 0 to 1."""

    label: str
    score: float


def parse(body: ZeroShotBody, info: RequestInfo) -> ClassifyRequest:
    """`{"inputs": str, "parameters": {"candidate_labels": [str]}}`. Raises ApiError 400 or 413."""
    reference = body.image if body.inputs is None else body.inputs
    if reference is None:
        raise ApiError(400, "field_missing", "The body has no field `inputs`.", where="$.inputs")
    labels = parse_labels(_labels(body), info.limits, LABELS)
    template = body.parameters.hypothesis_template
    templates = [TEMPLATE if template is None else parse_template(template, info.limits)]
    check_prompts(labels, templates, info.limits, LABELS)
    return ClassifyRequest(
        images=[parse_image(reference, info.limits.image_bytes)],
        labels=labels,
        templates=templates,
        labels_field=LABELS,
    )


def write(body: ZeroShotBody, result: ClassifyResult, info: RequestInfo) -> Sequence[Mapping[str, Any]]:
    """`[{"label", "score"}]`, best first."""
    labels, row = _labels(body), only_probabilities(result)
    return [{"label": labels[index], "score": row[index]} for index in best_first(row)]


def _labels(body: ZeroShotBody) -> Sequence[object]:
    labels = body.parameters.candidate_labels
    return [label.strip() for label in labels.split(",")] if isinstance(labels, str) else labels


PROTOCOL = Protocol(
    "huggingface",
    (
        Endpoint(
            operation_id="huggingface_zero_shot",
            summary="Scores of labels for a picture",
            path="/classify",
            # `inputs` alone means texts to embed, at the root.
            keys=(LABELS,),
            at_root=True,
            body=json_body(ZeroShotBody),
            reply=list[LabelScore],
            parse=parse,
            compute=classify,
            write=write,
            functions=("embed_mixed",),
            example={
                "inputs": EXAMPLE_IMAGE.partition(",")[2],
                "parameters": {"candidate_labels": ["birthday cake", "fire engine"]},
            },
        ),
    ),
    errors=PLAIN_ERRORS,
    tag="Hugging Face",
)
