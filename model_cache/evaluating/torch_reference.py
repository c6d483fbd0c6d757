"""A checkpoint run by its own library on torch, as an embedder beside baked models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_embeddings.config import Settings
from clip_embeddings.engine.manifest import fingerprint
from clip_embeddings.errors import ApiError
from clip_embeddings.images.decoding import decode_image
from model_cache.baking import catalogue
from model_cache.baking.catalogue import ModelSource
from model_cache.baking.errors import BakeError
from model_cache.baking.loaders import registry
from model_cache.evaluating.embedders import Embedder, Result
from model_cache.evaluating.errors import EvaluationError

if TYPE_CHECKING:
    from torch import Tensor


def open_reference(name: str, settings: Settings, checkpoint: Path | None, config: Path | None) -> Embedder:
    """The checkpoint that `bake` would bake by these names and files.

    Its tokenizer and its preprocessing are its own library's. Pictures are decoded as for baked models, so
    that what differs is the model.

    Raises:
        EvaluationError: it cannot be loaded, or lacks a tower.
        ModuleNotFoundError: a package of baking is not installed.
    """
    # Hides the libraries' warnings for programmers, such as "No pretrained weights loaded".
    logging.basicConfig(level=logging.ERROR)
    entry = None if config else catalogue.find(name)
    source = entry.source if entry else ModelSource("open_clip", name, config=config)
    try:
        loaded = registry.load(replace(source, checkpoint=checkpoint))
        text = loaded.text() if loaded.text else None
        image = loaded.image() if loaded.image else None
    except BakeError as error:
        raise EvaluationError(str(error)) from None
    if text is None or image is None:
        raise EvaluationError(f"{name} has no {'text' if text is None else 'image'} tower.")
    target = max(image.preprocess.size)
    encode_text, encode_image = text.encode, image.encode

    def embed(tower: str, items: Sequence[Any]) -> Sequence[Result]:
        if tower == "text":
            return _rows(lambda: encode_text(items), len(items))
        decoded = [_decode(data, settings, target) for data in items]
        pictures = [one for one in decoded if not isinstance(one, ApiError)]
        vectors = iter(_rows(lambda: encode_image(pictures), len(pictures)))
        return [one if isinstance(one, ApiError) else next(vectors) for one in decoded]

    return Embedder(
        name=f"{name} (torch)",
        space=loaded.space,
        precision="fp32",
        megabytes=None,
        fingerprints={
            "text": fingerprint("torch", loaded.space, loaded.architecture, text.spec),
            "image": fingerprint(
                "torch", loaded.space, loaded.architecture, image.preprocess, settings.images
            ),
        },
        open_tower=lambda tower: None,
        embed=embed,
    )


def _rows(encode: Callable[[], Tensor], count: int) -> Sequence[Result]:
    import torch

    if not count:
        return []
    with torch.inference_mode():
        return list(encode().float().numpy())


def _decode(data: bytes, settings: Settings, target: int) -> Any:
    limits = settings.limits
    try:
        return decode_image(
            data,
            settings=settings.images,
            max_pixels=limits.image_pixels,
            target=target,
            timeout=limits.decode_timeout,
        )
    except ApiError as error:
        return error.without_traceback()
