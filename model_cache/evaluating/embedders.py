"""Baked models as functions from texts and pictures to vectors, with what each item costs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clip_embeddings.config import Settings, load_settings
from clip_embeddings.embedding import EmbedRequest, TowerResult, embed
from clip_embeddings.engine.manifest import TOWERS, ModelError, find_model_folder
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes
from clip_embeddings.logs import Timings
from clip_embeddings.paths import MODEL_CACHE
from clip_embeddings.runtime import Runtime, make_runtime
from model_cache.evaluating.errors import EvaluationError

T = TypeVar("T")

# A vector (d,) float32, not necessarily of length 1, or why there is none.
Result = np.ndarray | ApiError


@dataclass(frozen=True)
class Embedder:
    """A model that is evaluated."""

    # The name of its folder, or the folder where two have the same name.
    name: str
    # Only models of the same space have vectors that can be compared.
    space: str
    # "fp32" or "int8" of the text tower and the image tower, one word where they are equal.
    precision: str
    # Size of the files, in MB of 10**6 bytes; None for a checkpoint.
    megabytes: float | None
    # By tower, "text" and "image": what changes whenever its vectors may.
    fingerprints: Mapping[str, str]
    # Opens the tower "text" or "image" if it is not open yet.
    open_tower: Callable[[str], object]
    # Tower and items: texts, or the bytes of files.
    embed: Callable[[str, Sequence[Any]], Sequence[Result]]

    @property
    def is_float32(self) -> bool:
        """Whether no tower is quantized."""
        return self.precision == "fp32"


@dataclass(frozen=True)
class Cost:
    """What an item took: seconds on the clock, and seconds of CPU on all CPUs together."""

    seconds: float
    cpu_seconds: float


def measured(embed_items: Callable[[], Sequence[Result]], count: int) -> tuple[Sequence[Result], Cost]:
    """What `embed_items` returns for `count` items, and the cost of each."""
    clock, cpu = time.perf_counter(), time.process_time()
    results = embed_items()
    return results, Cost((time.perf_counter() - clock) / count, (time.process_time() - cpu) / count)


def serving_settings() -> Settings:
    """The settings of the environment that decide how pictures are fetched and decoded, and on how many CPUs.

    Raises:
        ConfigError: a setting is not valid.
    """
    settings = load_settings(os.environ)
    return Settings(
        threads=settings.threads,
        memory=settings.memory,
        limits=settings.limits,
        images=settings.images,
        fetch=settings.fetch,
    )


def open_baked(names: Sequence[str], settings: Settings) -> list[Embedder]:
    """The baked models of these names or folders. Their towers are opened at first use.

    Raises:
        EvaluationError: there is no such model, its files are damaged, or it lacks a tower.
    """
    folders = {name: find_model_folder(name, MODEL_CACHE) for name in names}
    count = Counter(folder.name for folder in folders.values())
    return [
        # Two folders may have the same last name.
        _open(folder.name if count[folder.name] == 1 else str(folder), folder, settings)
        for folder in folders.values()
    ]


def _open(name: str, folder: Path, settings: Settings) -> Embedder:
    chosen = replace(settings, model=str(folder.absolute()))
    runtime = _translated(lambda: make_runtime("evaluate", TOWERS, chosen))
    model = runtime.default_model()
    towers = [model.manifest.towers[tower] for tower in TOWERS]
    return Embedder(
        name=name,
        space=model.manifest.space,
        precision="/".join(dict.fromkeys(tower.precision for tower in towers)),
        megabytes=_megabytes(folder, [file.path for tower in towers for file in tower.files]),
        fingerprints={"text": towers[0].fingerprint, "image": runtime.image_fingerprint(model)},
        open_tower=lambda tower: _translated(lambda: model.tower(tower).get().canary.get()),
        embed=lambda tower, items: _embed(runtime, tower, items),
    )


def _megabytes(folder: Path, files: Sequence[str]) -> float:
    return round(sum((folder / file).stat().st_size for file in dict.fromkeys(files)) / 1e6, 1)


def _embed(runtime: Runtime, tower: str, items: Sequence[Any]) -> Sequence[Result]:
    if tower == "text":
        request = EmbedRequest(texts=items)
    else:
        request = EmbedRequest(images=list(map(ImageBytes, items)))
    embedded = _translated(lambda: embed(request, runtime, Timings(), background=True))
    part: TowerResult | None = embedded.texts or embedded.images
    assert part is not None
    return part.results


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except ModelError as error:
        raise EvaluationError(str(error)) from None
