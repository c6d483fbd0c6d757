"""Makes the vectors that an evaluation needs and the cache does not have, all models by turns.

The models take turns at each batch, so that whatever else the machine does slows them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_embeddings.config import Settings
from clip_embeddings.errors import ApiError
from model_cache.evaluating.dataset import Problem
from model_cache.evaluating.embedders import Embedder, measured
from model_cache.evaluating.pictures import read_pictures
from model_cache.evaluating.progress_bar import ProgressBar
from model_cache.evaluating.vector_cache import VectorCache, picture_key, text_key

# Items between two writes to the cache; what is lost by an interruption is less.
TEXT_BATCH = 128
PICTURE_BATCH = 16


@dataclass(frozen=True)
class Collected:
    """The keys of items whose vectors are in the cache, for every model, and the items that have none."""

    # By text.
    texts: Mapping[str, bytes]
    # For each set of pictures, by picture as the set names it. Files with the same bytes have the same key.
    pictures: Sequence[Mapping[str, bytes]]
    problems: Sequence[Problem]


def collect(
    embedders: Sequence[Embedder],
    texts: Sequence[str],
    pictures: Sequence[tuple[Path, Sequence[str]]],
    settings: Settings,
    cache: VectorCache,
) -> Collected:
    """Make the missing vectors of distinct `texts`, and of `pictures`: folders, and files relative to them.

    Raises:
        EvaluationError: a model is damaged.
    """
    bar = ProgressBar((len(texts) + sum(len(names) for _, names in pictures)) * len(embedders))
    problems: list[Problem] = []
    try:
        text_keys = _collect_texts(embedders, texts, cache, bar, problems)
        picture_keys: list[dict[str, bytes]] = []
        for folder, names in pictures:
            picture_keys.append({})
            for part in read_pictures(names, folder, settings, PICTURE_BATCH):
                picture_keys[-1] |= _collect_pictures(embedders, part, folder, cache, bar, problems)
    finally:
        bar.close()
    return Collected(text_keys, picture_keys, problems)


def _collect_texts(
    embedders: Sequence[Embedder],
    texts: Sequence[str],
    cache: VectorCache,
    bar: ProgressBar,
    problems: list[Problem],
) -> dict[str, bytes]:
    keys = {text: text_key(text) for text in texts}
    for start in range(0, len(texts), TEXT_BATCH):
        part = {keys[text]: text for text in texts[start : start + TEXT_BATCH]}
        for embedder in embedders:
            failed = _make(embedder, "text", part, cache, bar)
            for key, reason in failed.items():
                text = part.pop(key)
                del keys[text]
                problems.append(Problem(text, "text", f"{embedder.name}: {reason}"))
    return keys


def _collect_pictures(
    embedders: Sequence[Embedder],
    read: Sequence[tuple[str, bytes | str]],
    folder: Path,
    cache: VectorCache,
    bar: ProgressBar,
    problems: list[Problem],
) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    part: dict[bytes, bytes] = {}
    for name, data in read:
        if isinstance(data, str):
            problems.append(Problem(name, str(folder), data))
            bar.add(len(embedders), made=False)
        else:
            keys[name] = picture_key(data)
            part[keys[name]] = data
    bar.add((len(keys) - len(part)) * len(embedders), made=False)
    for embedder in embedders:
        for key, reason in _make(embedder, "image", part, cache, bar).items():
            del part[key]
            for name in [name for name, its_key in keys.items() if its_key == key]:
                del keys[name]
                problems.append(Problem(name, str(folder), reason))
    return keys


def _make(
    embedder: Embedder,
    tower: str,
    items: Mapping[bytes, str | bytes],
    cache: VectorCache,
    bar: ProgressBar,
) -> dict[bytes, str]:
    """Store the vectors of `items` that the cache lacks. Returns the keys that failed, with the reasons."""
    fingerprint = embedder.fingerprints[tower]
    keys = cache.missing(fingerprint, list(items))
    bar.add(len(items) - len(keys), made=False)
    if not keys:
        return {}
    embedder.open_tower(tower)
    results, cost = measured(lambda: embedder.embed(tower, [items[key] for key in keys]), len(keys))
    by_key = dict(zip(keys, results, strict=True))
    failed = {key: result.message for key, result in by_key.items() if isinstance(result, ApiError)}
    made = {key: result for key, result in by_key.items() if not isinstance(result, ApiError)}
    cache.add(fingerprint, made, cost)
    bar.add(len(keys))
    return failed
