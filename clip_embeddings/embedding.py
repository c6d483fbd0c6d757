"""From an `Ask` to an `Answer`: fetch, decode, run; every failure keeps its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from clip_embeddings.engine.model import IMAGE_ROWS, ImageTower, Model, normalize_rows
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import GcsObject, ImageBytes, Source
from clip_embeddings.logs import Timings
from clip_embeddings.protocols.base import EmbedRequest, EmbedResult, TowerResult
from clip_embeddings.runtime import Runtime

S = TypeVar("S")
T = TypeVar("T")


def embed(
    ask: EmbedRequest,
    runtime: Runtime,
    timings: Timings,
    protocol: str = "native",
    *,
    background: bool = False,
) -> EmbedResult:
    """The vectors of everything in `ask`, which a client of `protocol` sent.

    All downloads share one deadline, so that no list of stalling URLs holds a request for long. With
    `patient`, where nobody waits, each has its own, and a full queue is no reason to give up.

    Raises:
        CallerError: 404 for a model that is not served, 400 for one that lacks a tower.
        OverloadedError: too many requests wait for the model already.
        ModelError: the model's files are damaged.
    """
    model = runtime.choose(ask.model, protocol)
    for tower in (["text"] if ask.texts else []) + (["image"] if ask.images else []):
        _check_tower(model, tower)
    texts = _embed_texts(ask, model, timings, background) if ask.texts else None
    images = _embed_images(ask, model, runtime, timings, background) if ask.images else None
    for part in (texts, images):
        if part is not None:
            timings.items += len(part.results)
            timings.failures += [result.code for result in part.results if isinstance(result, ApiError)]
    manifest = model.manifest
    return EmbedResult(manifest.name, manifest.dimensions, manifest.space, texts, images)


def _check_tower(model: Model, tower: str) -> None:
    if tower not in model.manifest.towers:
        name = model.manifest.name
        raise ApiError(
            400, "tower_missing", f"The model {name!r} has no {tower} tower: it cannot embed that."
        )


def _embed_texts(ask: EmbedRequest, model: Model, timings: Timings, background: bool) -> TowerResult:
    good = [index for index, text in enumerate(ask.texts) if isinstance(text, str)]
    truncated: list[int] = []
    results: list[np.ndarray | ApiError] = list(ask.texts)  # type: ignore[arg-type]
    if good:
        with timings.measure("load"):
            tower = model.text.get()
        with timings.measure("model"):
            found = tower.embed([ask.texts[index] for index in good], background=background)  # type: ignore[misc]
        for index, vector in zip(good, _finished(found.vectors, ask, model), strict=True):
            results[index] = vector
        truncated = [good[index] for index in found.truncated]
    return TowerResult(results, model.manifest.towers["text"].fingerprint, truncated)


def _embed_images(
    ask: EmbedRequest, model: Model, runtime: Runtime, timings: Timings, background: bool
) -> TowerResult:
    results: list[np.ndarray | ApiError] = []
    with timings.measure("load"):
        tower = model.image.get()
    timeout = runtime.settings.fetch.timeout
    end = time.monotonic() + timeout

    def load(source: Source | ApiError) -> np.ndarray | ApiError:
        if isinstance(source, ApiError):
            return source
        try:
            seconds = timeout if background else max(0.001, end - time.monotonic())
            data = _bytes_of(source, seconds, runtime, timings)
            with runtime.decode_slots.acquire(), timings.measure("decode"):
                return pixels_of(data, tower, runtime)
        except ApiError as error:
            return error.without_traceback()

    for loaded in _in_runs(ask.images, load, runtime.settings.fetch.parallel):
        good = [item for item in loaded if not isinstance(item, ApiError)]
        vectors: Iterator[np.ndarray] = iter(())
        if good:
            with timings.measure("model"):
                vectors = iter(_finished(tower.embed(good, background=background), ask, model))
        results += [item if isinstance(item, ApiError) else next(vectors) for item in loaded]
    return TowerResult(results, runtime.image_fingerprint(model))


def _finished(vectors: np.ndarray, ask: EmbedRequest, model: Model) -> np.ndarray:
    return normalize_rows(vectors) if ask.normalize and model.manifest.normalize else vectors


def _in_runs(sources: Sequence[S], load: Callable[[S], T], threads: int) -> Iterator[list[T]]:
    """`load` of every source, as many as one model run takes at a time, the next ones being loaded meanwhile.

    So a large request holds the pixels of two runs, and the bytes of `threads` pictures.
    """
    if len(sources) == 1:
        yield [load(sources[0])]
        return
    runs = [sources[start : start + IMAGE_ROWS] for start in range(0, len(sources), IMAGE_ROWS)]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    try:
        ahead = [pool.submit(load, source) for source in runs[0]]
        for following in [*runs[1:], []]:
            current, ahead = ahead, [pool.submit(load, source) for source in following]
            yield [future.result() for future in current]
    finally:
        # Where the request is given up, what is still under way ends by its own deadline.
        pool.shutdown(wait=False, cancel_futures=True)


def _bytes_of(source: Source, seconds: float, runtime: Runtime, timings: Timings) -> bytes:
    if isinstance(source, ImageBytes):
        return source.data
    if isinstance(source, GcsObject):
        from clip_embeddings.images.objects import read_object

        with timings.measure("fetch"):
            return read_object(source, runtime.settings)
    # Imported late: a request without URLs needs none of it.
    from clip_embeddings.fetch.client import fetch

    settings = runtime.settings
    with timings.measure("fetch"):
        return fetch(source.url, replace(settings.fetch, timeout=seconds), settings.limits.image_bytes)


def pixels_of(data: bytes, tower: ImageTower, runtime: Runtime) -> np.ndarray:
    """A picture of any accepted format as the tower's input: (3, h, w) float32. Raises CallerError."""
    from clip_embeddings.images.decoding import decode_image

    image = decode_image(
        data,
        settings=runtime.settings.images,
        max_pixels=runtime.settings.limits.image_pixels,
        target=max(*tower.preprocess.size, tower.preprocess.resize or 0),
    )
    return tower.pixels(image)
