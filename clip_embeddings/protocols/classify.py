"""Zero-shot classification in this project's own form: pictures and labels in, probabilities out.

As JSON with lists, or one picture as the file of a form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from clip_embeddings.classification import ClassifyRequest, ClassifyResult, best_first, classify
from clip_embeddings.config import Limits
from clip_embeddings.engine.zero_shot import DEFAULT_TEMPLATE
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes, Source, parse_image
from clip_embeddings.protocols.base import (
    EXAMPLE_IMAGE,
    MULTIPART,
    Body,
    Endpoint,
    Images,
    ItemError,
    MultipartForm,
    Protocol,
    RequestInfo,
    Strings,
    json_body,
)
from clip_embeddings.protocols.items import check_count, fingerprints, parse_each, validate
from clip_embeddings.protocols.labels import check_prompts, parse_labels, parse_templates

FUNCTIONS = ("embed_mixed",)
FILE_FIELDS = ("image", "file")

CLASSIFY_FORM = {
    "title": "ClassifyForm",
    "description": "A picture, and the labels to choose from.",
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "labels": {"type": "string", "description": "Separated by commas, or a JSON array."},
        "templates": {"type": "string", "description": "One template, or a JSON array."},
        "multi_label": {"type": "boolean"},
        "top_k": {"type": "integer", "minimum": 1},
        "model": {"type": "string"},
    },
    "required": ["image", "labels"],
}


class ClassifyOptions(msgspec.Struct, kw_only=True):
    """How labels are compared, and how many are answered."""

    multi_label: Annotated[
        bool | None,
        Meta(
            description="Whether each label is judged by itself; if not, probabilities add up to 1. By "
            "default as the model was trained: true for SigLIP, false for CLIP."
        ),
    ] = None
    top_k: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="The number of labels to answer; all by default.")
    ] = None
    model: str | None = None


class ClassifyBody(ClassifyOptions, kw_only=True):
    """Pictures, and the labels to choose from."""

    images: Images
    labels: Annotated[Strings, Meta(min_length=1)]
    templates: Annotated[
        Strings | None,
        Meta(description=f"Sentences with {{}} for the label; by default {DEFAULT_TEMPLATE!r}."),
    ] = None


class LabelProbability(msgspec.Struct):
    """A label, and how likely it is, from 0 to 1."""

    label: str
    probability: float


class ClassifyReply(msgspec.Struct, kw_only=True):
    """Labels for each picture."""

    results: Annotated[
        list[list[LabelProbability]],
        Meta(
            description="The labels of each picture, best first, in the request's order; [] where it failed."
        ),
    ]
    errors: list[ItemError]
    multi_label: bool
    model: str
    space: str
    fingerprint: dict[str, str]


def parse_body(body: ClassifyBody, info: RequestInfo) -> ClassifyRequest:
    """`{"images": [str], "labels": [str]}`. A picture that is no reference is represented by its ApiError."""
    limits = info.limits
    check_count(len(body.images), limits.items)
    images = parse_each(body.images, lambda item: parse_image(item, limits.image_bytes))
    templates = [DEFAULT_TEMPLATE] if body.templates is None else body.templates
    return _request(images, body.labels, templates, body, limits)


def write_body(body: ClassifyBody, result: ClassifyResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"results": [[{"label", "probability"}]]}`."""
    return _reply(body.labels, body.top_k, result)


def parse_form(form: MultipartForm, info: RequestInfo) -> ClassifyRequest:
    """The file `image` or `file`, or a reference in the field `image`, and the fields of ClassifyBody."""
    file = next((form.files[name] for name in FILE_FIELDS if name in form.files), None)
    if file is not None:
        image: Source = ImageBytes(file.data)
    elif "image" in form.fields:
        image = parse_image(form.fields["image"], info.limits.image_bytes)
    else:
        message = "The form has no file in the field `image` or `file`; with curl: -F image=@photo.jpg."
        raise ApiError(400, "field_missing", message)
    options = _form_options(form)
    labels = _form_labels(form)
    templates = _form_list(form.fields.get("templates", DEFAULT_TEMPLATE), "templates", separator=None)
    return _request([image], labels, templates, options, info.limits)


def write_form(form: MultipartForm, result: ClassifyResult, info: RequestInfo) -> Mapping[str, Any]:
    """The same reply as for JSON, for one picture."""
    return _reply(_form_labels(form), _form_options(form).top_k, result)


def _request(
    images: Sequence[Source | ApiError],
    labels: Sequence[object],
    templates: Sequence[object],
    options: ClassifyOptions,
    limits: Limits,
) -> ClassifyRequest:
    valid_labels = parse_labels(labels, limits, "labels", distinct=True, repeated=True)
    valid_templates = parse_templates(templates, limits, "templates")
    check_prompts(valid_labels, valid_templates, limits, "labels")
    return ClassifyRequest(
        images=images,
        model=options.model,
        labels=valid_labels,
        templates=valid_templates,
        multi_label=options.multi_label,
    )


def _reply(labels: Sequence[object], top_k: int | None, result: ClassifyResult) -> Mapping[str, Any]:
    results: list[list[dict[str, Any]]] = []
    errors = []
    for index, row in enumerate(result.probabilities):
        if isinstance(row, ApiError):
            results.append([])
            errors.append({"input": "images", "index": index, "code": row.code, "message": row.message})
        else:
            order = best_first(row, top_k)
            results.append([{"label": labels[place], "probability": row[place]} for place in order])
    return {
        "results": results,
        "errors": errors,
        "multi_label": result.multi_label,
        "model": result.model,
        "space": result.space,
        "fingerprint": fingerprints(result),
    }


def _form_options(form: MultipartForm) -> ClassifyOptions:
    # As a query string: every value is text.
    names = [field.name for field in msgspec.structs.fields(ClassifyOptions)]
    values = {name: form.fields[name] for name in names if name in form.fields}
    return validate(values, ClassifyOptions, where="form")


def _form_labels(form: MultipartForm) -> Sequence[object]:
    if "labels" not in form.fields:
        message = "The form has no field `labels`; with curl: -F labels=cat,dog."
        raise ApiError(400, "field_missing", message)
    return _form_list(form.fields["labels"], "labels", separator=",")


def _form_list(text: str, field: str, separator: str | None) -> Sequence[object]:
    """A JSON array, or the texts between separators. Raises ApiError 400 for a broken array."""
    if text.lstrip().startswith("["):
        try:
            values = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            message = f"`{field}` begins with [ and is no JSON array: {error}."
            raise ApiError(400, "json_invalid", message) from None
        assert isinstance(values, list)
        return values
    return [part.strip() for part in text.split(separator)] if separator else [text]


PROTOCOL = Protocol(
    "classify",
    (
        Endpoint(
            operation_id="classify",
            summary="Probabilities of labels for pictures",
            path="/classify",
            keys=("images", "labels"),
            body=json_body(ClassifyBody),
            reply=ClassifyReply,
            parse=parse_body,
            compute=classify,
            write=write_body,
            functions=FUNCTIONS,
            example={"images": [EXAMPLE_IMAGE], "labels": ["birthday cake", "fire engine"]},
        ),
        Endpoint(
            operation_id="classify_file",
            summary="Probabilities of labels for an uploaded picture",
            path="/classify",
            body=Body("multipart", MULTIPART, CLASSIFY_FORM),
            reply=ClassifyReply,
            parse=parse_form,
            compute=classify,
            write=write_form,
            functions=FUNCTIONS,
            example={"image": EXAMPLE_IMAGE, "labels": "birthday cake,fire engine"},
        ),
    ),
    tag="classification",
)
