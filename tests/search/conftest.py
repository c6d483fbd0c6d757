"""The album and the server of the search page's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.albums import Album, emoji, new_album
from tests.support.browser import Pages
from tests.support.photographs import photos
from tests.support.serving import Server, serving

# File names that would be more than text, were they taken for anything but text.
ODD = [
    "<img src=x onerror=alert(1)>.png",
    '\'" onload="alert(1)" &lt;b&gt;.png',
    "what? #1 100%25.png",
    "猫 🐱 קיטי.png",
    f"{'very long ' * 24}.png",
]


@pytest.fixture(scope="session")
def page_album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Emoji, photos with metadata and labels, and odd names."""
    made = new_album(tmp_path_factory.mktemp("album"))
    made.add({name.removeprefix("emoji/"): data for name, data in emoji(120).items()})
    made.add({f"photos/{name}.jpg": data for name, data in photos().items()}, camera="<b>K1</b>")
    made.add({f"odd/{name}": emoji()["emoji/cat face.png"] for name in ODD})
    for name in ("coffee", "rocket"):
        made.change(f"photos/{name}.jpg", labels={"a <b>thing</b>": 0.75}, label_set="test")
    return made


@pytest.fixture(scope="session")
def page_server(page_album: Album, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The function `search` with that album."""
    log = tmp_path_factory.mktemp("page") / "log"
    with serving("search", log, SERVE_ORIGINALS="true", **page_album.settings) as running:
        yield running


@pytest.fixture
def show(browser: Browser, page_server: Server) -> Iterator[Pages]:
    """Opens the page. Whatever the test does with it, its policy is not violated and no script fails."""
    pages = Pages(browser, page_server.url)
    yield pages
    pages.close()
    assert pages.wrong == []
