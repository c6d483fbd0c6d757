"""Decides between int8 and float32 by search on pairs of pictures and captions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_embeddings.config import Settings
from clip_embeddings.engine.manifest import TOWERS
from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.errors import ApiError, ConfigError
from clip_embeddings.images.decoding import decode_image
from model_cache.baking.errors import BakeError
from model_cache.baking.progress import step
from model_cache.evaluating.dataset import Pairs, read_pairs
from model_cache.evaluating.embedders import serving_settings
from model_cache.evaluating.errors import EvaluationError
from model_cache.evaluating.pictures import read_pictures
from model_cache.evaluating.retrieval import RetrievalData, retrieval_data, retrieve
from model_cache.evaluating.vector_cache import picture_key, text_key

if TYPE_CHECKING:
    # Importing it takes seconds.
    from model_cache.baking.tower_pipeline import BuiltTower

# Points of R@1 that int8 may lose.
MAX_RECALL_LOSS = 0.5
# Pictures that are decoded, then embedded, at a time.
_BATCH = 16
# Precisions of text and image tower in order of preference: the image tower costs most.
_PREFERRED = (("int8", "int8"), ("fp32", "int8"), ("int8", "fp32"))


@dataclass(frozen=True)
class RecallBound:
    """Pairs, and how many points (hundredths) of R@1 int8 may lose on them, in the worse direction."""

    pairs: Pairs
    max_loss: float
    settings: Settings


def open_bound(path: Path, max_loss: float) -> RecallBound:
    """The bound with the pairs of a file. Raises BakeError if the file or a setting is not valid."""
    try:
        return RecallBound(read_pairs(path), max_loss, serving_settings())
    except (EvaluationError, ConfigError) as error:
        raise BakeError(str(error)) from None


def choose_by_recall(
    bound: RecallBound, text: BuiltTower, image: BuiltTower, choices: Mapping[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """The precision of each tower, and the reason, where `choices` has those that the cosine alone gives.

    A tower is int8 if its cosine to PyTorch allows it and R@1 does.

    Raises:
        BakeError: no picture can be read.
    """
    allowed = [
        pair
        for pair in _PREFERRED
        if all(choices[name][0] == "int8" for name, own in zip(TOWERS, pair, strict=True) if own == "int8")
    ]
    if not allowed:
        return dict(choices)
    with step("R@1 on the pairs"):
        data, texts, images = _vectors(bound, text, image)
        reference = _recall(data, texts["fp32"], images["fp32"])
        losses = {
            pair: float(max(reference - _recall(data, texts[pair[0]], images[pair[1]]))) * 100
            for pair in allowed
        }
    size = f"{len(data.captions):,} captions and {len(data.pictures):,} pictures"
    return decide(losses, bound.max_loss, choices, size)


def decide(
    losses: Mapping[tuple[str, str], float],
    max_loss: float,
    choices: Mapping[str, tuple[str, str]],
    size: str,
) -> dict[str, tuple[str, str]]:
    """The precision of each tower, and the reason.

    Args:
        losses: points of R@1 that precisions of text and image tower lose to float32, in order of preference.
        choices: what the cosine alone gives.
        size: the number of pairs, in words.
    """
    taken = next((pair for pair, loss in losses.items() if loss <= max_loss), ("fp32", "fp32"))
    chosen = dict(choices)
    for name, precision in zip(TOWERS, taken, strict=True):
        by_cosine, reason = choices[name]
        if precision == "int8":
            chosen[name] = "int8", f"{reason}; R@1 on {size} drops by {losses[taken]:.2f} points"
        elif by_cosine == "int8":
            worst = next(iter(losses.values()))
            chosen[name] = (
                "fp32",
                f"because int8 loses {worst:.2f} points of R@1 on {size}, more than {max_loss:g}",
            )
    return chosen


def _vectors(
    bound: RecallBound, text: BuiltTower, image: BuiltTower
) -> tuple[RetrievalData, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The pairs that can be read, and the unit vectors of captions and of pictures by precision."""
    embed_texts, embed_images = text.open_graphs(), image.open_graphs()
    assert image.exported.tower.preprocess is not None
    target = max(image.exported.tower.preprocess.size)
    picture_keys: dict[str, bytes] = {}
    vectors: dict[str, dict[bytes, np.ndarray]] = {precision: {} for precision in embed_images}
    for part in read_pictures(bound.pairs.pictures, bound.pairs.folder, bound.settings, _BATCH):
        decoded: dict[bytes, Any] = {}
        for name, data in part:
            picture = data if isinstance(data, str) else _decode(data, bound.settings, target)
            if isinstance(data, str) or isinstance(picture, str):
                print(f"  left out: {name}: {picture}", file=sys.stderr)
                continue
            picture_keys[name] = picture_key(data)
            decoded[picture_keys[name]] = picture
        for precision, embed in embed_images.items():
            if decoded:
                rows = embed(list(decoded.values()))
                vectors[precision] |= dict(zip(decoded, rows, strict=True))
    if not picture_keys:
        raise BakeError("None of the pictures of --pairs can be read.")
    text_keys = {caption: text_key(caption) for caption in bound.pairs.captions}
    pairs = retrieval_data(bound.pairs.rows, text_keys, picture_keys)
    return (
        pairs,
        {name: normalize_rows(embed(pairs.captions)) for name, embed in embed_texts.items()},
        {
            name: normalize_rows(np.stack([by_key[key] for key in pairs.picture_keys]))
            for name, by_key in vectors.items()
        },
    )


def _decode(data: bytes, settings: Settings, target: int) -> Any:
    """The picture, or why it is none."""
    try:
        return decode_image(
            data, settings=settings.images, max_pixels=settings.limits.image_pixels, target=target
        )
    except ApiError as error:
        return error.message


def _recall(data: RetrievalData, captions: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """R@1 from captions to pictures and from pictures to captions, from 0 to 1."""
    figures = retrieve(data, captions, pictures)
    return np.array([one.recall[1].value for one in (figures.text_to_image, figures.image_to_text)])
