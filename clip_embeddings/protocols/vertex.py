"""Vertex AI's predict method, in the shapes of its multimodal and its text embedding models.

The shapes: python-aiplatform, vertexai/vision_models/_vision_models.py (MultiModalEmbeddingModel) and
vertexai/language_models/_language_models.py (TextEmbeddingModel); the envelope is PredictRequest and
PredictResponse of google/cloud/aiplatform_v1/types/prediction_service.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from clip_embeddings.config import Settings
from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_url
from clip_embeddings.protocols.base import EXAMPLE_IMAGE, Endpoint, Protocol, RequestInfo, Vector, json_body
from clip_embeddings.protocols.google import GOOGLE_ERRORS, Dimensions, parse_base64, whole
from clip_embeddings.protocols.items import check_counts, item_error, parse_all, parse_text

# Texts of one request to a text embedding model of Vertex AI.
MAX_TEXTS = 250


class Image(msgspec.Struct):
    """A picture: its bytes in base64, or an object in Cloud Storage. Its declared type is not used."""

    bytesBase64Encoded: str | None = None  # noqa: N815 - the API's own name
    gcsUri: str | None = None  # noqa: N815


class Instance(msgspec.Struct):
    """What gets one prediction: a text, a picture or both; or a text in `content`, as text models take it."""

    text: str | None = None
    image: Image | None = None
    content: str | None = None
    video: Annotated[Any, Meta(description="Refused.", extra_json_schema={"type": "null"})] = None


class Parameters(msgspec.Struct):
    """Options of the request. `dimension` belongs to multimodal models, the others to text models."""

    dimension: Dimensions | None = None
    outputDimensionality: Dimensions | None = None  # noqa: N815
    autoTruncate: bool | None = None  # noqa: N815


class PredictBody(msgspec.Struct):
    """The instances to embed."""

    instances: Annotated[list[Instance], Meta(min_length=1)]
    parameters: Parameters | None = None


class Statistics(msgspec.Struct):
    """The tokens of a text, and whether it was cut at the model's context length."""

    token_count: int
    truncated: bool


class TextEmbedding(msgspec.Struct):
    """The vector of a text."""

    values: Vector
    statistics: Statistics


class Prediction(msgspec.Struct):
    """The vectors of one instance."""

    textEmbedding: Vector | UnsetType = UNSET  # noqa: N815
    imageEmbedding: Vector | UnsetType = UNSET  # noqa: N815
    embeddings: TextEmbedding | UnsetType = UNSET


class PredictReply(msgspec.Struct):
    """A prediction per instance."""

    predictions: list[Prediction]
    deployedModelId: Annotated[str, Meta(description="The model's name.")]  # noqa: N815


def parse(body: PredictBody, info: RequestInfo) -> EmbedRequest:
    """`{"instances": [{"text"?, "image"?} or {"content"}], "parameters"?}`.

    The path's `{model}` names the model. An endpoint's id is not a model's name.
    """
    parsed = parse_all(body.instances, lambda instance: _parse_instance(instance, info))
    texts = [text for text, _ in parsed if text is not None]
    images = [image for _, image in parsed if image is not None]
    check_counts(len(texts), len(images), info.limits, MAX_TEXTS)
    parameters = body.parameters or Parameters()
    dimensions = parameters.dimension or parameters.outputDimensionality
    return EmbedRequest(
        texts,
        images,
        model=info.path_params.get("model"),
        dimensions=whole(dimensions),
        truncate=parameters.autoTruncate is not False,
        all_or_nothing=True,
    )


def _parse_instance(value: object, info: RequestInfo) -> tuple[str | None, Source | None]:
    """The text and the picture of an instance. Raises ApiError."""
    assert isinstance(value, Instance)
    if value.video is not None:
        raise ApiError(400, "media_unsupported", "Videos are not served here, only texts and images.")
    if value.content is not None and (value.text is not None or value.image is not None):
        raise ApiError(400, "instance_ambiguous", "Send either `content`, or `text` and `image`.")
    text = value.text if value.content is None else value.content
    if text is None and value.image is None:
        raise ApiError(400, "instance_empty", "The instance has neither `text`, nor `image`, nor `content`.")
    return (
        None if text is None else parse_text(text, info.limits),
        None if value.image is None else _parse_picture(value.image, info.limits.image_bytes),
    )


def _parse_picture(image: Image, max_bytes: int) -> Source:
    if image.bytesBase64Encoded:
        return parse_base64(image.bytesBase64Encoded, max_bytes)
    if not image.gcsUri:
        raise ApiError(400, "image_missing", "Send either `bytesBase64Encoded` or `gcsUri`.")
    if not image.gcsUri.strip().lower().startswith("gs://"):
        raise ApiError(400, "url_invalid", "`gcsUri` must have the form gs://bucket/object.")
    return parse_url(image.gcsUri, max_bytes)


def write(body: PredictBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"predictions": [{"textEmbedding"?, "imageEmbedding"?} or {"embeddings"}], "deployedModelId"}`."""
    texts: Iterator[tuple[int, np.ndarray | ApiError]] = enumerate(
        result.texts.results if result.texts else ()
    )
    images = iter(result.images.results if result.images else ())
    cut = frozenset(result.texts.truncated if result.texts else ())
    count = len(body.instances)
    predictions: list[Any] = []
    for index, instance in enumerate(body.instances):
        prediction: dict[str, Any] = {}
        if instance.content is not None:
            assert result.texts is not None
            number, vector = next(texts)
            values = _vector(vector, index, count)
            statistics = {"token_count": result.texts.token_counts[number], "truncated": number in cut}
            prediction["embeddings"] = {"values": values, "statistics": statistics}
        if instance.text is not None:
            prediction["textEmbedding"] = _vector(next(texts)[1], index, count)
        if instance.image is not None:
            prediction["imageEmbedding"] = _vector(next(images), index, count)
        predictions.append(prediction)
    return {"predictions": predictions, "deployedModelId": result.model}


def _vector(vector: np.ndarray | ApiError, index: int, count: int) -> np.ndarray:
    """The vector. Raises the ApiError of an instance that failed, with its index."""
    if isinstance(vector, ApiError):
        raise item_error(vector, index, count)
    return vector


def _predict_route(settings: Settings) -> str | None:
    return settings.aip_predict_route


def _endpoints() -> Sequence[Endpoint]:
    targets = {"models": "publishers/google/models/{model:path}", "endpoint": "endpoints/{endpoint}"}
    return [
        Endpoint(
            operation_id=f"vertex_{version}_predict_{name}",
            summary="Texts and pictures to vectors, as Vertex AI does",
            path=f"/{version}/projects/{{project}}/locations/{{location}}/{target}:predict",
            keys=("instances",),
            body=json_body(PredictBody),
            reply=PredictReply,
            parse=parse,
            write=write,
            functions=("embed_text", "embed_image", "embed_mixed"),
            # One operation is enough at a path that has no version.
            at_root=(version, name) == ("v1", "endpoint"),
            setting_path=_predict_route if (version, name) == ("v1", "endpoint") else None,
            example={
                "instances": [
                    {
                        "text": "birthday cake",
                        "image": {"bytesBase64Encoded": EXAMPLE_IMAGE.partition(",")[2]},
                    }
                ]
            },
        )
        for version in ("v1", "v1beta1")
        for name, target in targets.items()
    ]


PROTOCOL = Protocol("vertex", tuple(_endpoints()), errors=GOOGLE_ERRORS, tag="Vertex AI")
