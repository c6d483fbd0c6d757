"""Items that are a text, a picture or both, for protocols whose lists mix them.

An item with a text and a picture gets one vector: the normalized mean of the two normalized vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clip_embeddings.config import Limits
from clip_embeddings.embedding import EmbedRequest, EmbedResult
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import Source, parse_image
from clip_embeddings.protocols.items import check_counts, item_error, mean_direction, parse_all, parse_text

Kind = Literal["text", "image"]
# The values that a client sent, by what they are; not checked.
Item = Mapping[Kind, object]


def content_item(parts: object) -> Item:
    """The item in a list of content parts, or in a string, which is a text.

    A part is `{"type": "text", "text": str}` or `{"type": "image_url", "image_url": {"url": str}}`, as in
    openai-python, src/openai/types/chat/chat_completion_content_part_param.py, and in cohere-python,
    src/cohere/types/embed_content.py.

    Raises:
        ApiError: 400 for no part, for another type of part, and for two texts or two pictures.
    """
    if isinstance(parts, str):
        return {"text": parts}
    if not isinstance(parts, list) or not parts:
        raise ApiError(400, "content_invalid", "The content must be a text or a list of parts, at least one.")
    item: dict[Kind, object] = {}
    for kind, value in map(_part, parts):
        if kind in item:
            raise ApiError(400, "content_invalid", "An item may have one text and one picture, not two.")
        item[kind] = value
    return item


def _part(part: object) -> tuple[Kind, object]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return "text", part.get("text")  # type: ignore[attr-defined]
    if kind == "image_url":
        image = part.get("image_url")  # type: ignore[attr-defined]
        return "image", image.get("url") if isinstance(image, dict) else image
    raise ApiError(400, "content_invalid", "A part of the content must have the type `text` or `image_url`.")


def request_for(items: Sequence[Item], limits: Limits, most: int, **options: Any) -> EmbedRequest:
    """A request for `items`, with `options` as `EmbedRequest` names them.

    Args:
        most: how many texts the protocol allows in a request without pictures.

    Raises:
        ApiError: that of the first invalid item; 413 for too many.
    """
    texts_count, images_count = (sum(kind in item for item in items) for kind in ("text", "image"))
    check_counts(texts_count, images_count, limits, most)
    texts: list[str] = []
    images: list[Source] = []

    def parse(item: object) -> None:
        assert isinstance(item, dict)
        if "text" in item:
            texts.append(parse_text(item["text"], limits))
        if "image" in item:
            images.append(parse_image(item["image"], limits.image_bytes))

    parse_all(items, parse)
    return EmbedRequest(texts, images, all_or_nothing=True, **options)


def item_vectors(items: Sequence[Item], result: EmbedResult) -> Sequence[np.ndarray]:
    """The vector of every item, in order: (d,) float32.

    Raises:
        ApiError: that of the first item that failed; with several items, the message names its index.
    """
    parts = {
        "text": iter(result.texts.results if result.texts else ()),
        "image": iter(result.images.results if result.images else ()),
    }
    vectors = []
    for index, item in enumerate(items):
        results = [next(parts[kind]) for kind in ("text", "image") if kind in item]
        for failed in results:
            if isinstance(failed, ApiError):
                raise item_error(failed, index, len(items))
        vectors.append(results[0] if len(results) == 1 else mean_direction(results))  # type: ignore[arg-type]
    return vectors  # type: ignore[return-value]
