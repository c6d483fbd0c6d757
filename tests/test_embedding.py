"""The embedding pipeline without HTTP: order, parallel downloads, one deadline, errors that keep no data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clip_embeddings.config import FetchSettings, Settings
from clip_embeddings.embedding import EmbedRequest, embed
from clip_embeddings.errors import ApiError
from clip_embeddings.images.sources import ImageBytes, ImageUrl
from clip_embeddings.logs import Timings
from clip_embeddings.runtime import Runtime, make_runtime
from tests.support.image_servers import Server, serving
from tests.support.photographs import photos

FETCH = FetchSettings(private_hosts=frozenset({"127.0.0.1"}))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def _runtime(**fetch: Any) -> Runtime:
    return make_runtime("test", ("text", "image"), Settings(fetch=replace(FETCH, **fetch)))


def _codes(request: EmbedRequest, runtime: Runtime) -> list[str | None]:
    """The error code of each image, or None."""
    images = embed(request, runtime, Timings()).images
    assert images is not None
    return [result.code if isinstance(result, ApiError) else None for result in images.results]


def test_results_and_errors_keep_their_places_over_several_model_runs() -> None:
    valid, invalid = ImageBytes(photos()["chelsea"]), ImageBytes(b"not a picture")

    codes = _codes(EmbedRequest(images=[valid, invalid, ApiError(400, "given", ""), valid] * 6), _runtime())

    assert codes == [None, "image_unsupported", "given", None] * 6


def test_one_deadline_covers_all_downloads_of_a_request(server: Server) -> None:
    runtime = _runtime(timeout=0.5, parallel=2)
    runtime.default_model().image.get()
    started = time.monotonic()

    codes = _codes(EmbedRequest(images=[ImageUrl(server.url("/silent"))] * 12), runtime)

    assert codes == ["fetch_timeout"] * 12
    assert time.monotonic() - started < 3


def test_downloads_are_parallel_up_to_the_setting(server: Server) -> None:
    server.most_in_flight = 0

    codes = _codes(EmbedRequest(images=[ImageUrl(server.url("/busy/0.1"))] * 8), _runtime(parallel=3))

    assert codes == ["image_unsupported"] * 8
    assert server.most_in_flight == 3


def test_an_error_does_not_keep_the_image_bytes_in_memory() -> None:
    result = embed(EmbedRequest(images=[ImageBytes(b"x" * 1000)] * 2), _runtime(), Timings())

    assert result.images is not None
    for error in result.images.results:
        assert isinstance(error, ApiError)
        assert (error.__traceback__, error.__context__) == (None, None)


@pytest.mark.parametrize("text", ["a cat", "cat " * 300])
def test_all_or_nothing_ends_at_the_first_error(text: str) -> None:
    """Later pictures would take several runs of the model. Every item keeps its place."""
    runtime, timings = _runtime(), Timings()
    valid, invalid = ImageBytes(photos()["chelsea"]), ImageBytes(b"not a picture")
    images = [valid, invalid, *[valid] * 20]

    result = embed(EmbedRequest(["a", text], images, truncate=False, all_or_nothing=True), runtime, timings)

    assert result.texts is not None
    assert result.images is not None
    assert (len(result.texts.results), len(result.images.results)) == (2, 22)
    is_long = text != "a cat"
    assert isinstance(result.texts.results[1], ApiError) is is_long
    assert isinstance(result.images.results[1], ApiError) is not is_long
    assert ("model" in timings.milliseconds()) is not is_long
    assert ("decode" in timings.milliseconds()) is not is_long
    made = [item for item in result.images.results if not isinstance(item, ApiError)]
    assert all(np.isnan(vector).all() for vector in made)
