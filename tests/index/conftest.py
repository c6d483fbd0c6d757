"""The index of a test of the contract: of every backend of the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from clip_embeddings.index.registry import BACKENDS
from clip_embeddings.index.types import Index
from tests.support.indexes import EMPTY_INDEX_URLS, Open, opened_index


@pytest.fixture(params=[backend.scheme for backend in BACKENDS])
def open_again(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens the index of a test, each time as another process would."""
    url = EMPTY_INDEX_URLS[request.param](request)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(opened_index(url, **options))


@pytest.fixture
def index(open_again: Open) -> Index:
    return open_again()
