"""BigQuery's remote functions: a batch of rows in, a JSON array or null per row out.

The shapes, statuses and limits: https://cloud.google.com/bigquery/docs/remote-functions, "Input format" and
"Output format". The SQL function takes one STRING (or BYTES, which arrives as base64) and returns JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_image
from clip_embeddings.logs import logger
from clip_embeddings.protocols.base import Endpoint, ErrorFormat, Protocol, RequestInfo, Vector, json_body
from clip_embeddings.protocols.items import parse_each, parse_text

# Rows of texts that are embedded at least, whatever MAX_ITEMS says. BigQuery chooses how many it sends where
# the function has no max_batching_rows.
MAX_ROWS = 1024
# Bytes of the largest reply that BigQuery accepts from Cloud Run: https://cloud.google.com/bigquery/quotas.
MAX_REPLY_BYTES = 15_000_000
# Bytes of a float32 in JSON, sign, exponent and comma included: -1.2345678e-10,
NUMBER_BYTES = 15
# Bytes of a row's provenance and of the names of its fields; the two values have 16 characters each.
PROVENANCE_BYTES = 100
# Of errorMessage; "size should be less than 1KB".
MAX_MESSAGE_BYTES = 1000
# What an option of the function's definition may be; BigQuery sends every value as a string.
MODES = ("text", "image")
BOOLEANS = ("false", "true")


class RowsBody(msgspec.Struct):
    """The arguments of each row. The ids of the request and its caller have no effect."""

    # Arguments are checked row by row.
    calls: Annotated[
        list[list[Any]],
        Meta(
            description="One argument each: a text, or a picture's URL or base64. null gives null.",
            extra_json_schema={
                "items": {
                    "type": "array",
                    "items": {"type": ["string", "null"]},
                    "minItems": 1,
                    "maxItems": 1,
                }
            },
        ),
    ]
    userDefinedContext: Annotated[  # noqa: N815 - BigQuery's own name
        dict[str, Any] | None,
        Meta(
            description="`mode` is `text` or `image`, `model` a model's name. With `provenance`, `true`, "
            "every vector comes with what made it."
        ),
    ] = None


class RowVector(msgspec.Struct):
    """A row's vector, and what made it."""

    vector: Vector
    space: str
    fingerprint: str


class RowsReply(msgspec.Struct):
    """A vector per row, or null."""

    replies: list[Vector | RowVector | None]


class RowsErrorReply(msgspec.Struct):
    """What BigQuery shows to whoever runs the query."""

    errorMessage: str  # noqa: N815


def parse(body: RowsBody, info: RequestInfo) -> EmbedRequest:
    """`{"calls": [[str or null]], "userDefinedContext"?: {str: str}}`, whose options are `mode` and others.

    Equal arguments become one item. An argument that is no string, or no picture, fails its row only. Too
    many rows for one reply are refused here, before anything is run.
    """
    for index, call in enumerate(body.calls):
        if len(call) != 1:
            message = f"Row {index} has {len(call)} arguments: declare the function with one STRING."
            raise ApiError(400, "arguments_invalid", message)
    mode = _option(body, "mode", MODES) or ("image" if tuple(info.towers) == ("image",) else "text")
    model = _option(body, "model") or None
    limits = info.limits
    items = list(_unique(body))
    most = limits.items if mode == "image" else max(MAX_ROWS, limits.items)
    if len(items) > most:
        message = f"The request has {len(items):,} different rows: set max_batching_rows to {most}."
        raise ApiError(413, "too_many_items", message)
    if mode == "image":
        images: list[Source | ApiError] = parse_each(
            items, lambda item: parse_image(item, limits.image_bytes)
        )
        _check_reply_size(body, items, images, info.dimensions(model))
        return EmbedRequest(images=images, model=model)
    texts = parse_each(items, lambda item: parse_text(item, limits))
    _check_reply_size(body, items, texts, info.dimensions(model))
    return EmbedRequest(texts=texts, model=model)


def _check_reply_size(
    body: RowsBody, items: Sequence[str], parsed: Sequence[object], dimensions: int
) -> None:
    """Raise ApiError 413 if the vectors of all rows might not fit into one reply."""
    valid = {item for item, result in zip(items, parsed, strict=True) if not isinstance(result, ApiError)}
    vectors = sum(isinstance(argument, str) and argument in valid for (argument,) in body.calls)
    row_bytes = dimensions * NUMBER_BYTES + _with_provenance(body) * PROVENANCE_BYTES
    most = MAX_REPLY_BYTES // row_bytes
    if vectors > most:
        message = f"The reply to {len(body.calls):,} rows may exceed 15 MB: set max_batching_rows to {most}."
        raise ApiError(413, "too_many_items", message)


def write(body: RowsBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"replies": [[f] or null]}`, one reply per row; with `provenance`, an object in place of `[f]`.

    Raises:
        ApiError: 503 if a bucket did not answer for a row: BigQuery then repeats the request, while null
            would be the row's result.
    """
    part = result.texts or result.images
    results = dict(zip(_unique(body), part.results, strict=True)) if part else {}
    shared = {"space": result.space, "fingerprint": part.fingerprint} if part else {}
    has_provenance = _with_provenance(body)
    replies: list[Any] = []
    failures: Counter[str] = Counter()
    for (argument,) in body.calls:
        if argument is None:
            replies.append(None)
            continue
        vector = results[argument] if isinstance(argument, str) else ApiError(400, "text_not_a_string", "")
        if not isinstance(vector, ApiError):
            replies.append({"vector": vector, **shared} if has_provenance else vector)
            continue
        if vector.retry_after is not None:
            raise ApiError(503, "storage_unavailable", vector.message, retry_after=vector.retry_after)
        failures[vector.code] += 1
        replies.append(None)
    if failures:
        codes = ",".join(sorted(failures))
        logger.warning("bigquery: %d of %d rows are null: %s", failures.total(), len(replies), codes)
    return {"replies": replies}


def _unique(body: RowsBody) -> Mapping[str, None]:
    """The different strings among the arguments, in order."""
    return dict.fromkeys(argument for (argument,) in body.calls if isinstance(argument, str))


def _with_provenance(body: RowsBody) -> bool:
    return _option(body, "provenance", BOOLEANS) == "true"


def _option(body: RowsBody, name: str, allowed: Sequence[str] = ()) -> str | None:
    """An option of the function's definition. Raises ApiError 400 if it is not one of `allowed`, if any."""
    value = (body.userDefinedContext or {}).get(name)
    if value is None or (isinstance(value, str) and (not allowed or value in allowed)):
        return value
    choices = " or ".join(map(repr, allowed)) or "a string"
    raise ApiError(400, "context_invalid", f"`{name}` in user_defined_context must be {choices}.")


def _write_error(error: ApiError) -> Mapping[str, Any]:
    message = error.message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    return {"errorMessage": message}


PROTOCOL = Protocol(
    "bigquery",
    (
        Endpoint(
            operation_id="bigquery_rows",
            summary="Rows of texts or pictures to vectors, for a remote function of BigQuery",
            path="/bigquery",
            keys=("calls",),
            body=json_body(RowsBody),
            reply=RowsReply,
            parse=parse,
            write=write,
            functions=("embed_text", "embed_image", "embed_mixed"),
            at_root=True,
            further_statuses=(503,),
            example={
                "requestId": "124ab1c",
                "userDefinedContext": {"mode": "text"},
                "calls": [["birthday cake"], [None], ["birthday cake"]],
            },
        ),
    ),
    errors=ErrorFormat(write=_write_error, schema=lambda status: RowsErrorReply),
    tag="BigQuery",
)
