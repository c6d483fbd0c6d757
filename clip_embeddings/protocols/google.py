"""What Google's APIs have in common: the body of an error, and images as base64."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes, Source, parse_image
from clip_embeddings.protocols.base import ErrorFormat

# Canonical names by HTTP status: googleapis, google/rpc/code.proto.
STATUS_NAMES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class GoogleError(msgspec.Struct):
    """What went wrong: the HTTP status, a sentence, and the canonical name of the status."""

    code: int
    message: str
    status: str


class GoogleErrorReply(msgspec.Struct):
    """The body of an error of a Google API."""

    error: GoogleError


def _write(error: ApiError) -> dict[str, Any]:
    status = STATUS_NAMES.get(error.status, "INVALID_ARGUMENT")
    return {"error": {"code": error.status, "message": error.message, "status": status}}


# https://cloud.google.com/apis/design/errors#http_mapping; google-genai reads these fields in
# google/genai/errors.py.
GOOGLE_ERRORS = ErrorFormat(write=_write, schema=lambda status: GoogleErrorReply)

# A whole number. Protobuf's Struct has no integers, so clients may send 512 as 512.0.
Dimensions = Annotated[float, Meta(ge=1, le=2**31, description="The dimensions of the model, if given.")]


def whole(dimensions: float | None) -> int | None:
    """The dimensions as an integer. Raises ApiError 400 for a fraction."""
    if dimensions is None:
        return None
    if dimensions != int(dimensions):
        raise ApiError(400, "dimensions_invalid", "The dimensions must be a whole number.")
    return int(dimensions)


def parse_base64(value: object, max_bytes: int) -> Source:
    """An image file in base64. Raises ApiError as `parse_image`, and 400 for a URL."""
    image = parse_image(value, max_bytes)
    if not isinstance(image, ImageBytes):
        raise ApiError(400, "image_reference_invalid", "The image must be base64, not a URL.")
    return image
