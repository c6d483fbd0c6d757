"""Loading the bytes of an image from each kind of source."""

from __future__ import annotations

import time

import pytest

from clip_embeddings.config import FetchSettings, Settings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.downloads import DownloadMemory
from clip_embeddings.images.loading import load_bytes
from clip_embeddings.images.sources import GcsObject, ImageBytes, ImageUrl
from clip_embeddings.logs import Timings
from clip_embeddings.semaphore import FairSemaphore
from tests.support.image_servers import IMAGE, serving

SETTINGS = Settings(fetch=FetchSettings(private_hosts=frozenset({"127.0.0.1"})))


def downloads(size: int = 2**20) -> DownloadMemory:
    """Memory for downloads, all of it free."""
    return DownloadMemory(FairSemaphore(size, queue=10), 2**20, deadline=time.monotonic() + 10)


def test_bytes_of_the_request_are_returned_without_a_fetch() -> None:
    timings = Timings()

    assert load_bytes(ImageBytes(b"data"), 1.0, SETTINGS, timings, downloads()) == b"data"
    assert "fetch" not in timings.milliseconds()


def test_a_url_is_fetched_and_timed() -> None:
    timings = Timings()

    with serving() as server:
        assert load_bytes(ImageUrl(server.url("/image")), 5.0, SETTINGS, timings, downloads()) == IMAGE

    assert "fetch" in timings.milliseconds()


def test_the_timeout_of_the_call_replaces_that_of_the_settings() -> None:
    started = time.monotonic()

    with serving() as server, pytest.raises(ApiError) as caught:
        load_bytes(ImageUrl(server.url("/silent")), 0.2, SETTINGS, Timings(), downloads())

    assert caught.value.code == "fetch_timeout"
    assert time.monotonic() - started < 2


def test_an_object_in_a_bucket_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        load_bytes(GcsObject("private", "photo.jpg"), 1.0, SETTINGS, Timings(), downloads())

    assert (caught.value.status, caught.value.code) == (400, "bucket_forbidden")
