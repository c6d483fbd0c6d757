"""The native convention: JSON lists in, lists of vectors out, and a raw picture as a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flask import Request

from functions.config import Limits
from functions.errors import CallerError
from functions.inputs.bodies import read_bytes, read_json
from functions.inputs.sources import Blob, parse_image, parse_url
from functions.protocols.convention import Answer, Ask, Convention, labels, single, vectors_and_errors
from functions.protocols.options import json_options, query_options, text_item

JSON = ("application/json",)
T = TypeVar("T")


def parse_texts(request: Request, limits: Limits) -> Ask:
    """`{"texts": [str]}`."""
    body = read_json(request, limits)
    texts = _list(body, "texts")
    _check_count(limits, texts)
    return Ask(texts=_items(texts, lambda item: text_item(item, limits)), **json_options(body))


def parse_images(request: Request, limits: Limits) -> Ask:
    """`{"urls": [str]}`, or `images` in place of `urls`."""
    body = read_json(request, limits)
    field, images = _image_list(body)
    _check_count(limits, images)
    return Ask(images=_images(field, images, limits), image_field=field, **json_options(body))


def parse_mixed(request: Request, limits: Limits) -> Ask:
    """`{"texts": [str], "urls": [str]}`, or `images` in place of `urls`."""
    body = read_json(request, limits)
    texts = _list(body, "texts")
    field, images = _image_list(body)
    _check_count(limits, texts, images)
    return Ask(
        texts=_items(texts, lambda item: text_item(item, limits)),
        images=_images(field, images, limits),
        image_field=field,
        **json_options(body),
    )


def parse_raw(request: Request, limits: Limits) -> Ask:
    """A picture as the body itself."""
    data = read_bytes(request, limits.image_bytes)
    if not data:
        raise CallerError(400, "image_empty", "The body is empty: send the picture's bytes.")
    return Ask(images=[Blob(data)], **query_options(request.args))


def write_texts(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert answer.texts is not None
    rows, errors = vectors_and_errors(answer.texts, ask.text_field)
    return {"embeddings": rows, **labels(answer), "errors": errors, "truncated": answer.texts.truncated}


def write_images(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"embeddings": [[f]]}`."""
    assert answer.images is not None
    rows, errors = vectors_and_errors(answer.images, ask.image_field)
    return {"embeddings": rows, **labels(answer), "errors": errors}


def write_mixed(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"text_embeddings": [[f]], "image_embeddings": [[f]]}`."""
    assert answer.texts is not None
    assert answer.images is not None
    texts, text_errors = vectors_and_errors(answer.texts, ask.text_field)
    images, image_errors = vectors_and_errors(answer.images, ask.image_field)
    return {
        "text_embeddings": texts,
        "image_embeddings": images,
        **labels(answer),
        "errors": text_errors + image_errors,
        "truncated": answer.texts.truncated,
    }


def write_raw(ask: Ask, answer: Answer) -> Mapping[str, Any]:
    """`{"embedding": [f]}`."""
    assert answer.images is not None
    return {"embedding": single(answer.images), **labels(answer)}


def _list(body: Mapping[str, Any], name: str) -> Sequence[object]:
    if name not in body:
        wanted = "`urls` or `images`" if name == "urls" else f"`{name}`"
        raise CallerError(400, "list_missing", f"The body has no list {wanted}.")
    value = body[name]
    if not isinstance(value, list) or not value:
        raise CallerError(400, "list_invalid", f"`{name}` must be a list with at least one item.")
    return value


def _image_list(body: Mapping[str, Any]) -> tuple[str, Sequence[object]]:
    if "urls" in body and "images" in body:
        raise CallerError(400, "list_ambiguous", "Send either `urls` or `images`, not both.")
    field = "images" if "images" in body else "urls"
    return field, _list(body, field)


def _check_count(limits: Limits, *lists: Sequence[object]) -> None:
    count = sum(map(len, lists))
    if count > limits.items:
        raise CallerError(
            413, "too_many_items", f"The request has {count:,} items; {limits.items:,} are allowed."
        )


def _images(field: str, values: Sequence[object], limits: Limits) -> list[Any]:
    parse = parse_url if field == "urls" else parse_image
    return _items(values, lambda value: parse(value, limits.image_bytes))


def _items(values: Sequence[object], parse: Callable[[object], T]) -> list[T | CallerError]:
    return [_item(value, parse) for value in values]


def _item(value: object, parse: Callable[[object], T]) -> T | CallerError:
    try:
        return parse(value)
    except CallerError as error:
        return error.bare()


TEXT = Convention("/embed/text", JSON, parse_texts, write_texts)
IMAGE = Convention("/embed/image", JSON, parse_images, write_images)
MIXED = Convention("/embed/mixed", JSON, parse_mixed, write_mixed)
RAW = Convention("/embed/image", ("image/*",), parse_raw, write_raw)
