"""BigQuery's remote functions: a batch of rows in, a JSON array or null per row out.

The shapes, statuses and limits: https://cloud.google.com/bigquery/docs/remote-functions, "Input format" and
"Output format". The SQL function takes one STRING (or BYTES, which arrives as base64) and returns JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_image
from clip_embeddings.logs import logger
from clip_embeddings.protocols.base import Endpoint, ErrorFormat, Protocol, RequestInfo, Vector, json_body
from clip_embeddings.protocols.items import check_count, parse_each, parse_text

# Rows of texts that are embedded at least, whatever MAX_ITEMS says. BigQuery chooses how many it sends where
# the function has no max_batching_rows.
MAX_ROWS = 1024
# Bytes of the largest reply that BigQuery accepts from Cloud Run: https://cloud.google.com/bigquery/quotas.
MAX_REPLY_BYTES = 15_000_000
# Bytes of a float32 in JSON, sign, exponent and comma included: -1.2345678e-10,
NUMBER_BYTES = 15
# Of errorMessage; "size should be less than 1KB".
MAX_MESSAGE_BYTES = 1000
MODES = ("text", "image")


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
        Meta(description="`mode` is `text` or `image`, `model` a model's name."),
    ] = None


class RowsReply(msgspec.Struct):
    """A vector per row, or null."""

    replies: list[Vector | None]


class RowsErrorReply(msgspec.Struct):
    """What BigQuery shows to whoever runs the query."""

    errorMessage: str  # noqa: N815


def parse(body: RowsBody, info: RequestInfo) -> EmbedRequest:
    """`{"calls": [[str or null]], "userDefinedContext"?: {"mode"?: "text" or "image", "model"?: str}}`.

    Equal arguments become one item. An argument that is no string, or no picture, fails its row only.
    """
    for index, call in enumerate(body.calls):
        if len(call) != 1:
            message = f"Row {index} has {len(call)} arguments: declare the function with one STRING."
            raise ApiError(400, "arguments_invalid", message)
    mode = _option(body, "mode", info) or ("image" if tuple(info.towers) == ("image",) else "text")
    model = _option(body, "model", info) or None
    items = list(_unique(body))
    limits = info.limits
    if mode == "image":
        check_count(len(items), limits.items)
        images: list[Source | ApiError] = parse_each(
            items, lambda item: parse_image(item, limits.image_bytes)
        )
        return EmbedRequest(images=images, model=model)
    check_count(len(items), max(MAX_ROWS, limits.items))
    return EmbedRequest(texts=parse_each(items, lambda item: parse_text(item, limits)), model=model)


def write(body: RowsBody, result: EmbedResult, info: RequestInfo) -> Mapping[str, Any]:
    """`{"replies": [[f] or null]}`, one reply per row."""
    part = result.texts or result.images
    items = _unique(body)
    results = dict(zip(items, part.results, strict=True)) if part else {}
    replies: list[Any] = []
    failures: Counter[str] = Counter()
    for (argument,) in body.calls:
        if argument is None:
            replies.append(None)
            continue
        vector = results[argument] if isinstance(argument, str) else ApiError(400, "text_not_a_string", "")
        if isinstance(vector, ApiError):
            failures[vector.code] += 1
            replies.append(None)
        else:
            replies.append(vector)
    vectors = sum(reply is not None for reply in replies)
    if vectors * result.dimensions * NUMBER_BYTES > MAX_REPLY_BYTES:
        most = MAX_REPLY_BYTES // (result.dimensions * NUMBER_BYTES)
        message = f"The reply to {len(replies):,} rows may exceed 15 MB: set max_batching_rows to {most}."
        raise ApiError(413, "too_many_items", message)
    if failures:
        codes = ",".join(sorted(failures))
        logger.warning("bigquery: %d of %d rows are null: %s", failures.total(), len(replies), codes)
    return {"replies": replies}


def _unique(body: RowsBody) -> Mapping[str, None]:
    """The different strings among the arguments, in order."""
    return dict.fromkeys(argument for (argument,) in body.calls if isinstance(argument, str))


def _option(body: RowsBody, name: str, info: RequestInfo) -> str | None:
    """An option of the function's definition. Raises ApiError 400 if it is not one of those allowed."""
    value = (body.userDefinedContext or {}).get(name)
    if value is None or (isinstance(value, str) and (name != "mode" or value in MODES)):
        return value
    allowed = " or ".join(map(repr, MODES)) if name == "mode" else "a string"
    raise ApiError(400, "context_invalid", f"`{name}` in user_defined_context must be {allowed}.")


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
