"""The pipeline below HTTP: order, parallel downloads, one deadline, nothing kept."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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


def _codes(ask: EmbedRequest, runtime: Runtime) -> list[str | None]:
    images = embed(ask, runtime, Timings()).images
    assert images is not None
    return [result.code if isinstance(result, ApiError) else None for result in images.results]


def test_good_and_bad_keep_their_places_over_several_runs() -> None:
    good, bad = ImageBytes(photos()["chelsea"]), ImageBytes(b"not a picture")

    codes = _codes(EmbedRequest(images=[good, bad, ApiError(400, "noted", ""), good] * 6), _runtime())

    assert codes == [None, "image_unsupported", "noted", None] * 6


def test_one_deadline_covers_all_downloads_of_a_request(server: Server) -> None:
    runtime = _runtime(timeout=0.5, parallel=2)
    runtime.default_model().image.get()
    started = time.monotonic()

    codes = _codes(EmbedRequest(images=[ImageUrl(server.url("/silent"))] * 12), runtime)

    assert codes == ["fetch_timeout"] * 12
    assert time.monotonic() - started < 3


def test_downloads_go_side_by_side_up_to_the_setting(server: Server) -> None:
    server.most_in_flight = 0

    codes = _codes(EmbedRequest(images=[ImageUrl(server.url("/busy/0.1"))] * 8), _runtime(parallel=3))

    assert codes == ["image_unsupported"] * 8
    assert server.most_in_flight == 3


def test_an_error_does_not_hold_on_to_the_bytes() -> None:
    answer = embed(EmbedRequest(images=[ImageBytes(b"x" * 1000)] * 2), _runtime(), Timings())

    assert answer.images is not None
    for error in answer.images.results:
        assert isinstance(error, ApiError)
        assert (error.__traceback__, error.__context__) == (None, None)
