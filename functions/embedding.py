"""From an `Ask` to an `Answer`: fetch, decode, run; every failure keeps its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from functions.config import Settings
from functions.engine.gate import OverloadedError
from functions.engine.manifest import fingerprint
from functions.engine.model import IMAGE_ROWS, ImageTower, Model, normalized
from functions.errors import CallerError
from functions.inputs.sources import Blob, Source, Url
from functions.logs import Timings
from functions.protocols.convention import Answer, Ask, Embedded
from functions.runtime import Runtime

if TYPE_CHECKING:
    from PIL import Image


def embed(ask: Ask, runtime: Runtime, timings: Timings) -> Answer:
    """The vectors of everything in `ask`.

    Raises:
        CallerError: 404 for a model that is not served, 429 when too many requests wait already.
        ModelError: the model's files are damaged.
    """
    model = runtime.choose(ask.model)
    try:
        texts = _embed_texts(ask, model, timings) if ask.texts else None
        images = _embed_images(ask, model, runtime, timings) if ask.images else None
    except OverloadedError:
        raise CallerError(
            429, "overloaded", "Too many requests wait for the model; try again in a second.", retry_after=1
        ) from None
    manifest = model.manifest
    return Answer(manifest.name, manifest.dimensions, manifest.space, texts, images)


def _embed_texts(ask: Ask, model: Model, timings: Timings) -> Embedded:
    good = [index for index, text in enumerate(ask.texts) if isinstance(text, str)]
    truncated: list[int] = []
    results: list[np.ndarray | CallerError] = list(ask.texts)  # type: ignore[arg-type]
    if good:
        with timings.measure("load"):
            tower = model.text.get()
        with timings.measure("model"):
            found = tower.embed([ask.texts[index] for index in good])  # type: ignore[misc]
        for index, vector in zip(good, _finished(found.vectors, ask, model), strict=True):
            results[index] = vector
        truncated = [good[index] for index in found.truncated]
    return Embedded(results, model.manifest.towers["text"].fingerprint, truncated)


def _embed_images(ask: Ask, model: Model, runtime: Runtime, timings: Timings) -> Embedded:
    results: list[np.ndarray | CallerError] = []
    with timings.measure("load"):
        tower = model.image.get()
    for fetched in _fetched(ask.images, runtime.settings, timings):
        with timings.measure("decode"):
            decoded = list(runtime.decoders.map(lambda item: _pixels(item, tower, runtime.settings), fetched))
        good = [item for item in decoded if not isinstance(item, CallerError)]
        vectors: Iterator[np.ndarray] = iter(())
        if good:
            with timings.measure("model"):
                vectors = iter(_finished(tower.embed(good), ask, model))
        results += [item if isinstance(item, CallerError) else next(vectors) for item in decoded]
    images = runtime.settings.images
    return Embedded(results, fingerprint(tower.tower.fingerprint, images.exif, images.exact))


def _finished(vectors: np.ndarray, ask: Ask, model: Model) -> np.ndarray:
    return normalized(vectors) if ask.normalize and model.manifest.normalize else vectors


def _fetched(
    sources: Sequence[Source | CallerError], settings: Settings, timings: Timings
) -> Iterator[list[bytes | CallerError]]:
    """The bytes of `sources`, one model run's worth at a time, the next one's being fetched meanwhile.

    So a large request holds the bytes of two runs, not of all its pictures.
    """
    chunks = [sources[start : start + IMAGE_ROWS] for start in range(0, len(sources), IMAGE_ROWS)]
    if len(chunks) == 1:
        with timings.measure("fetch"):
            yield _fetch_chunk(chunks[0], settings)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="lookahead") as pool:
        ahead: Future[list[bytes | CallerError]] = pool.submit(_fetch_chunk, chunks[0], settings)
        for chunk in [*chunks[1:], None]:
            with timings.measure("fetch"):
                ready = ahead.result()
            if chunk is not None:
                ahead = pool.submit(_fetch_chunk, chunk, settings)
            yield ready


def _fetch_chunk(sources: Sequence[Source | CallerError], settings: Settings) -> list[bytes | CallerError]:
    urls = [source.url for source in sources if isinstance(source, Url)]
    fetched: Iterator[bytes | CallerError] = iter(())
    if urls:
        from functions.inputs.fetch import fetch_all

        fetched = iter(fetch_all(urls, settings.fetch, settings.limits.image_bytes))
    return [_bytes_of(source, fetched) for source in sources]


def _bytes_of(source: Source | CallerError, fetched: Iterator[bytes | CallerError]) -> bytes | CallerError:
    if isinstance(source, CallerError):
        return source
    return source.data if isinstance(source, Blob) else next(fetched)


def _pixels(data: bytes | CallerError, tower: ImageTower, settings: Settings) -> np.ndarray | CallerError:
    if isinstance(data, CallerError):
        return data
    from functions.inputs.images import decode_image

    try:
        image: Image.Image = decode_image(
            data,
            settings=settings.images,
            max_pixels=settings.limits.image_pixels,
            target=max(tower.preprocess.size),
        )
    except CallerError as error:
        return error
    return tower.pixels(image)
