"""From an `EmbedRequest` to an `EmbedResult`: fetch, decode, run.

A failed item keeps its place as an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import msgspec
import numpy as np

from clip_embeddings.engine.model import IMAGE_ROWS, ImageTower, Model, TextTower, normalize_rows
from clip_embeddings.engine.scheduler import no_check
from clip_embeddings.errors import ApiError
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.limits import PixelQuota
from clip_embeddings.images.loading import load_bytes
from clip_embeddings.images.sources import Source
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import Runtime

# Seconds after which the pictures of a request that are not being decoded yet are given up. A full request of
# 256 photographs of 12 megapixels takes 25 s on one CPU.
DECODING_SECONDS = 120.0

S = TypeVar("S")
T = TypeVar("T")


class EmbedRequest(msgspec.Struct, frozen=True):
    """Texts and pictures to embed. An invalid item is represented by its ApiError."""

    texts: Sequence[str | ApiError] = ()
    images: Sequence[Source | ApiError] = ()
    # None selects the protocol's model, else the default model.
    model: str | None = None
    # Whether vectors get length 1; None leaves it to the protocol's setting, RAW_PROTOCOLS. A model whose
    # manifest says otherwise keeps its own scale.
    normalize: bool | None = None
    # The dimensions that the client expects; None for those of the model.
    dimensions: int | None = None
    # Whether a text over the context length is cut; if not, it is an item that fails.
    truncate: bool = True
    # Whether one failed item fails the request: once it is noticed, before the run of the model that it would
    # be in, nothing more is run, and downloads that have not begun are dropped.
    all_or_nothing: bool = False


class TowerResult(msgspec.Struct, frozen=True):
    """The results of one tower, in the order of the request."""

    # A vector (d,) float32, or the ApiError of an item that failed. With `all_or_nothing`, if an item failed,
    # vectors that were not made are nan: the reply is the error.
    results: Sequence[np.ndarray | ApiError]
    fingerprint: str
    # Indices of the texts that were cut at the context length.
    truncated: Sequence[int] = ()
    # Tokens of each text, start and end included; 0 for one that failed.
    token_counts: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(self.token_counts)


class EmbedResult(msgspec.Struct, frozen=True):
    """The vectors of an `EmbedRequest`, and the model that made them. None for a tower without items."""

    model: str
    dimensions: int
    space: str
    texts: TowerResult | None = None
    images: TowerResult | None = None


def only_vector(part: TowerResult) -> np.ndarray:
    """The vector of the only item: (d,) float32. Raises its ApiError if it failed."""
    (result,) = part.results
    if isinstance(result, ApiError):
        raise result.without_traceback()
    return result


def embed(
    request: EmbedRequest,
    runtime: Runtime,
    timings: Timings,
    protocol: str = "native",
    *,
    background: bool = False,
    check: Callable[[], None] = no_check,
) -> EmbedResult:
    """The vectors of everything in `request`, which a client of `protocol` sent.

    All downloads share one deadline, so that a list of stalling URLs cannot hold a request for long. With
    `background`, for work that no client waits for, each download has its own deadline, and the queue for the
    model is unbounded. `check` is called before each run of the model and each picture; what it raises ends
    the work.

    Raises:
        ApiError: 404 for a model that is not served, 400 for one that lacks a tower or has other dimensions.
        OverloadedError: too many requests wait for the model already.
        ModelError: the model's files are damaged.
    """
    model = runtime.choose(request.model, protocol)
    if request.normalize is None:
        request = msgspec.structs.replace(request, normalize=protocol not in runtime.settings.raw_protocols)
    for tower, items in (("text", request.texts), ("image", request.images)):
        if items:
            check_tower(model, tower, runtime)
    _check_dimensions(model, request.dimensions)
    texts = _embed_texts(request, model, timings, background, check) if request.texts else None
    images = None
    if request.images and texts and _is_lost(request, texts.results):
        skipped = [_not_made(model)] * len(request.images)
        images = TowerResult(skipped, runtime.image_fingerprint(model))
    elif request.images:
        images = _embed_images(request, model, runtime, timings, background, check)
    for part in (texts, images):
        if part is not None:
            timings.items += len(part.results)
            timings.failures += [result.code for result in part.results if isinstance(result, ApiError)]
    manifest = model.manifest
    return EmbedResult(manifest.name, manifest.dimensions, manifest.space, texts, images)


def _is_lost(request: EmbedRequest, results: Sequence[object]) -> bool:
    """Whether one of `results` fails the whole request."""
    return request.all_or_nothing and any(isinstance(result, ApiError) for result in results)


def _not_made(model: Model) -> np.ndarray:
    return np.full(model.manifest.dimensions, np.nan, np.float32)


def check_tower(model: Model, tower: str, runtime: Runtime) -> None:
    """Raise ApiError 400 if this function or `model` has no tower of that name."""
    if tower not in runtime.towers:
        raise ApiError(
            400, "tower_missing", f"The function {runtime.name!r} has no {tower} tower: it cannot embed that."
        )
    if tower not in model.manifest.towers:
        name = model.manifest.name
        raise ApiError(
            400, "tower_missing", f"The model {name!r} has no {tower} tower: it cannot embed that."
        )


def _check_dimensions(model: Model, dimensions: int | None) -> None:
    manifest = model.manifest
    if dimensions not in (None, manifest.dimensions):
        message = f"The model {manifest.name!r} makes vectors of {manifest.dimensions} numbers and no others."
        raise ApiError(400, "dimensions_unsupported", message, where="$.dimensions")


def _embed_texts(
    request: EmbedRequest, model: Model, timings: Timings, background: bool, check: Callable[[], None]
) -> TowerResult:
    valid = {index: text for index, text in enumerate(request.texts) if isinstance(text, str)}
    truncated: list[int] = []
    token_counts = [0] * len(request.texts)
    results: list[np.ndarray | ApiError] = list(request.texts)  # type: ignore[arg-type]
    if valid:
        with timings.measure("load"):
            tower = model.text.get()
        if not request.truncate:
            _refuse_too_long(valid, results, tower)
    if _is_lost(request, results):
        for index in valid:
            results[index] = _not_made(model)
    elif valid:
        with timings.measure("model"):
            embedded = tower.embed(list(valid.values()), background=background, check=check)
        vectors = _scaled(embedded.vectors, request, model)
        for index, vector, count in zip(valid, vectors, embedded.token_counts, strict=True):
            results[index], token_counts[index] = vector, count
        indices = list(valid)
        truncated = [indices[position] for position in embedded.truncated]
    return TowerResult(results, model.manifest.towers["text"].fingerprint, truncated, token_counts)


def _refuse_too_long(valid: dict[int, str], results: list[np.ndarray | ApiError], tower: TextTower) -> None:
    """Move the texts over the context length from `valid` to `results`, as errors."""
    indices = list(valid)
    for position in tower.too_long(list(valid.values())):
        del valid[indices[position]]
        results[indices[position]] = ApiError(
            400,
            "text_over_context",
            f"The text has more tokens than the {tower.spec.context_length} that the model reads, and the "
            "request does not allow its end to be cut off.",
        )


def _embed_images(
    request: EmbedRequest,
    model: Model,
    runtime: Runtime,
    timings: Timings,
    background: bool,
    check: Callable[[], None],
) -> TowerResult:
    results: list[np.ndarray | ApiError] = []
    with timings.measure("load"):
        tower = model.image.get()
    settings = runtime.settings
    timeout = settings.fetch.timeout
    started = time.monotonic()
    decode_deadline = None if background else started + DECODING_SECONDS
    # A batched job may have more items than a request, and as many more pixels.
    share = max(1.0, len(request.images) / settings.limits.items)
    quota = PixelQuota(int(settings.limits.request_pixels * share))

    def load(source: Source | ApiError) -> np.ndarray | ApiError:
        if isinstance(source, ApiError):
            return source
        check()
        try:
            deadline = None if background else started + timeout
            seconds = timeout if deadline is None else max(0.001, deadline - time.monotonic())
            with DownloadMemory(runtime.memory.downloads, settings.limits.image_bytes, deadline) as memory:
                data = load_bytes(source, seconds, settings, timings, memory)
                return image_pixels(data, tower, runtime, timings, quota, decode_deadline)
        except ApiError as error:
            return error.without_traceback()

    # Enough for a full run on each CPU.
    rows = IMAGE_ROWS * tower.scheduler.cpus
    for loaded in _load_ahead(request.images, load, rows, runtime.settings.fetch.parallel):
        if _is_lost(request, loaded):
            results += [item if isinstance(item, ApiError) else _not_made(model) for item in loaded]
            results += [_not_made(model)] * (len(request.images) - len(results))
            break
        pixels = [item for item in loaded if not isinstance(item, ApiError)]
        vectors: Iterator[np.ndarray] = iter(())
        if pixels:
            with timings.measure("model"):
                projections = tower.embed(pixels, background=background, check=check)
                vectors = iter(_scaled(projections, request, model))
        results += [item if isinstance(item, ApiError) else next(vectors) for item in loaded]
    return TowerResult(results, runtime.image_fingerprint(model))


def _scaled(vectors: np.ndarray, request: EmbedRequest, model: Model) -> np.ndarray:
    return normalize_rows(vectors) if request.normalize and model.manifest.normalize else vectors


def _load_ahead(sources: Sequence[S], load: Callable[[S], T], rows: int, threads: int) -> Iterator[list[T]]:
    """`load` of every source, in lists of `rows`. While one list is in use, the next is loaded.

    A large request therefore holds the pixels of two lists, and the bytes of `threads` pictures.
    """
    if len(sources) == 1:
        yield [load(sources[0])]
        return
    runs = [sources[start : start + rows] for start in range(0, len(sources), rows)]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    try:
        ahead = [pool.submit(load, source) for source in runs[0]]
        for following in [*runs[1:], []]:
            current, ahead = ahead, [pool.submit(load, source) for source in following]
            yield [future.result() for future in current]
    finally:
        # If the request is abandoned, downloads in progress end at their own deadline.
        pool.shutdown(wait=False, cancel_futures=True)


def image_pixels(
    data: bytes,
    tower: ImageTower,
    runtime: Runtime,
    timings: Timings | None = None,
    quota: PixelQuota | None = None,
    deadline: float | None = None,
) -> np.ndarray:
    """A picture of any accepted format as the tower's input: (3, h, w) float32.

    Args:
        timings: counts the time of decoding, without the wait for it.
        quota: of the request's pixels.
        deadline: of time.monotonic(), for the wait; None for background work.

    Raises:
        ApiError: as `ImageDecoder.admit`.
        OverloadedError: there was no memory or CPU for decoding until `deadline`.
    """
    target = max(*tower.preprocess.size, tower.preprocess.resize or 0)
    with (
        runtime.decoder.admit(data, target, quota=quota, deadline=deadline) as decode,
        timings.measure("decode") if timings else nullcontext(),
    ):
        return tower.pixels(decode())
