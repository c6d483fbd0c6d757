"""The protocol of Immich's machine learning service: a picture or a text in, a vector written as text out.

Sources: immich-app/immich, machine-learning/immich_ml/main.py (the service) and
server/src/repositories/machine-learning.repository.ts (its client).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from clip_embeddings.embedding import EmbedRequest, EmbedResult, only_vector
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.protocols.base import (
    MULTIPART,
    Body,
    Endpoint,
    ErrorFormat,
    Lookup,
    MultipartForm,
    Protocol,
    RequestInfo,
)
from clip_embeddings.protocols.items import parse_text, prepare_struct
from clip_embeddings.runtime import Runtime

FUNCTIONS = ("embed_mixed",)
# Immich's name for vectors of pictures and of searches. Its other tasks find faces and read text in pictures.
TASK = "clip"

# JSON Schema as it is: for a struct with bytes, msgspec would document base64.
PREDICT_FORM = {
    "title": "PredictForm",
    "description": "What is asked for, and the picture or the text.",
    "type": "object",
    "properties": {
        "entries": {
            "type": "string",
            "description": 'JSON: `{"clip": {"visual": {"modelName": str}}}` for a picture, with '
            "`textual` in place of `visual` for a text.",
        },
        "image": {"type": "string", "format": "binary"},
        "text": {"type": "string"},
    },
    "required": ["entries"],
}


class Entry(msgspec.Struct):
    """The model for one kind of input; its `options` are ignored."""

    modelName: str  # noqa: N815 - the client's own name


class PredictReply(msgspec.Struct):
    """The vector as the text of a JSON array and, for a picture, its size in pixels."""

    clip: str
    imageHeight: int | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the client's own name
    imageWidth: int | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the client's own name


class DetailReply(msgspec.Struct):
    """What went wrong, as a sentence."""

    detail: str


def parse_predict(form: MultipartForm, info: RequestInfo) -> EmbedRequest:
    """`entries`, and the file `image` or the field `text`; with both, the picture counts.

    Raises:
        ApiError: 422 for entries that are malformed or not served, 400 without picture and text.
    """
    kind, entry = _parse_entries(form.fields.get("entries"))
    image, text = form.files.get("image"), form.fields.get("text")
    if image is None and text is None:
        raise ApiError(400, "field_missing", "The form has neither the file `image` nor the field `text`.")
    if kind != ("textual" if image is None else "visual"):
        given = "text" if image is None else "picture"
        message = f"`{kind}` does not go with a {given}: send a picture with `visual`, a text with `textual`."
        raise ApiError(422, "entries_invalid", message)
    if image is not None:
        return EmbedRequest(images=[ImageBytes(image.data)], model=entry.modelName)
    return EmbedRequest(texts=[parse_text(text, info.limits)], model=entry.modelName)


def write_predict(form: MultipartForm, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"clip": "[f]"}` and, for a picture, `imageHeight` and `imageWidth`: before any EXIF orientation, as
    Immich's own service has them."""
    part = result.images or result.texts
    assert part is not None
    vector = orjson.dumps(only_vector(part), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if result.images is None:
        return {"clip": vector}
    # Imported late, because it imports Pillow, which no text needs.
    from clip_embeddings.images.decoding import image_size

    # Reading the header again takes less than a millisecond.
    width, height = image_size(form.files["image"].data)
    return {"clip": vector, "imageHeight": height, "imageWidth": width}


def ping(runtime: Runtime, path_params: Mapping[str, str]) -> str:
    """How Immich finds out whether the service answers."""
    return "pong"


def _parse_entries(entries: str | None) -> tuple[str, Entry]:
    """The only entry, and its kind: visual or textual. Raises ApiError 422."""
    if entries is None:
        raise ApiError(422, "field_missing", "The form has no field `entries`.")
    try:
        tasks = msgspec.json.decode(entries, type=dict[str, dict[str, Any]])
        if unserved := [task for task in tasks if task != TASK]:
            message = (
                f"The task {unserved[0][:100]!r} is not served here, only {TASK!r}: "
                "switch it off in the machine learning settings of Immich."
            )
            raise ApiError(422, "task_unserved", message)
        ((kind, value),) = tasks[TASK].items()
        if kind not in ("visual", "textual"):
            raise ValueError
        prepare_struct(Entry)
        return kind, msgspec.convert(value, Entry)
    except (msgspec.DecodeError, RecursionError, KeyError, ValueError):
        message = '`entries` must be JSON: {"clip": {"visual" or "textual": {"modelName": str}}}.'
        raise ApiError(422, "entries_invalid", message) from None


PROTOCOL = Protocol(
    "immich",
    (
        Endpoint(
            operation_id="immich_predict",
            summary="A picture or a text to a vector",
            path="/predict",
            body=Body("multipart", MULTIPART, PREDICT_FORM),
            reply=PredictReply,
            parse=parse_predict,
            write=write_predict,
            functions=FUNCTIONS,
            example={"entries": '{"clip": {"textual": {"modelName": "demo"}}}', "text": "birthday cake"},
        ),
    ),
    lookups=(
        Lookup(
            operation_id="immich_ping",
            summary="Alive",
            path="/ping",
            reply={"type": "string"},
            reply_media="text/plain",
            handler=ping,
            functions=FUNCTIONS,
            public=True,
        ),
    ),
    errors=ErrorFormat(write=lambda error: {"detail": error.message}, schema=lambda status: DetailReply),
    tag="Immich",
)
