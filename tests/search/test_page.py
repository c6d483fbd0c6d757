"""The search page in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, expect

from dev.sample_photos import make_sample_photos
from tests.search.conftest import ODD
from tests.support.albums import Album, emoji, new_album
from tests.support.browser import (
    DROP,
    PASTE,
    Pages,
    card,
    cards,
    drawn,
    file_of,
    name,
    names,
    needs_chromium,
    violations,
)
from tests.support.photographs import photos
from tests.support.serving import KEY, Server, serving

pytestmark = needs_chromium

CAKE = "birthday cake.png"


def test_the_policy_holds_and_would_be_heard_of(browser: Browser, page_server: Server) -> None:
    page = browser.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.extend(violations(message.text)))
    page.goto(page_server.url)
    assert heard == []

    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2/x.png'}))")
    page.evaluate("try { document.body.innerHTML = '<b>'; } catch {}")
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.wait_for_timeout(100)

    assert len(heard) == 3
    page.close()


def test_typing_finds_pictures(show: Pages) -> None:
    page = show()
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type("birthday cake")
    page.keyboard.press("Enter")

    expect(name(page)).to_have_text(CAKE)
    expect(card(page, 0).locator(".score")).to_have_text("0.55")
    expect(page.locator("#status")).to_contain_text("The nearest pictures for “birthday cake”")
    expect(page).to_have_title("birthday cake – Photos")
    drawn(page)


def test_links_and_back_work(show: Pages) -> None:
    page = show("/search?q=fire+engine&prefix=f")
    expect(name(page)).to_have_text("fire engine.png")
    expect(page.locator("#query")).to_have_value("fire engine")
    assert all(text.startswith("f") for text in names(page))

    page.goto(page.url.partition("/search")[0])
    page.get_by_role("link", name="birthday cake").click()
    expect(name(page)).to_have_text(CAKE)
    page.locator("#query").fill("a cat")
    page.keyboard.press("Enter")
    expect(page).to_have_url(page.url.partition("/search")[0] + "/search?q=a+cat")
    expect(page.locator("#status")).to_contain_text("“a cat”")
    page.go_back()
    expect(name(page)).to_have_text(CAKE)
    expect(page.locator("#query")).to_have_value("birthday cake")
    page.reload()
    expect(name(page)).to_have_text(CAKE)
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Find a photo by what is in it")
    expect(cards(page)).to_have_count(0)


def test_a_dropped_picture_finds_its_like(show: Pages) -> None:
    page = show()
    page.evaluate(DROP, file_of("mine.png", photos()["coffee"], "image/png"))
    expect(name(page)).to_have_text("coffee.jpg")
    drawn(page)
    expect(page.locator("#preview")).to_be_visible()

    page.evaluate(PASTE, file_of("mine.jpg", photos()["rocket"]))
    expect(name(page)).to_have_text("rocket.jpg")

    page.locator("#file").set_input_files(
        {"name": "x", "mimeType": "", "buffer": emoji()["emoji/cat face.png"]}
    )
    expect(name(page)).not_to_have_text("rocket.jpg")
    expect(card(page, 0).locator(".score")).to_have_text("1.00")
    assert name(page).text_content() in ["cat face.png", *ODD]

    page.go_back()
    expect(name(page)).to_have_text("rocket.jpg")
    page.reload()
    expect(name(page)).to_have_text("rocket.jpg")
    page.get_by_role("button", name="Remove the picture").click()
    expect(cards(page)).to_have_count(0)
    expect(page.locator("#query")).to_be_focused()


def test_more_like_this(show: Pages) -> None:
    page = show("/search?q=cat+face")
    cat = cards(page).filter(has_text="cat face.png")
    cat.hover()
    cat.get_by_role("button", name="More like").click()

    expect(page).to_have_url(re.compile(r"/similar\?uri=file%3A%2F%2F%2F.*%2Fcat\+face.png$"))
    expect(card(page, 4).locator(".score")).to_have_text("1.00")
    assert set(names(page)[:5]) == set(ODD)
    expect(page.locator("#preview")).to_have_class(re.compile("there"))


def test_without_a_mouse(show: Pages) -> None:
    page = show("/search?q=birthday+cake", viewport={"width": 1000, "height": 700})
    drawn(page)
    columns = len({box["x"] for one in cards(page).all() if (box := one.bounding_box())})
    focused = page.locator(".photo:focus")
    press = page.keyboard.press
    press("/")
    press("ArrowDown")
    expect(focused).to_have_attribute("data-index", "0")
    press("ArrowDown")
    expect(focused).to_have_attribute("data-index", str(columns))
    press("ArrowRight")
    press("ArrowUp")
    expect(focused).to_have_attribute("data-index", "1")
    press("End")
    press("ArrowRight")
    expect(cards(page).last).to_have_attribute("aria-setsize", re.compile(r"^\d+$"))
    press("End")
    last = int(cards(page).last.get_attribute("aria-setsize") or 0) - 1
    expect(focused).to_have_attribute("data-index", str(last))
    press("Home")
    press("ArrowLeft")
    expect(focused).to_have_attribute("data-index", "0")

    press("Enter")
    expect(page.locator("#name")).to_have_text(CAKE)
    press("ArrowRight")
    second = name(page, 1).text_content() or ""
    expect(page.locator("#name")).to_have_text(second)
    press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(focused).to_have_attribute("data-index", "1")
    press("m")
    expect(page.locator("#status")).to_contain_text(f"like {second}")
    press("Escape")
    expect(page.locator("#query")).to_be_focused()


def test_one_picture_large(show: Pages, page_album: Album) -> None:
    page = show("/search?q=a&prefix=photos/coffee")
    cards(page).first.locator(".photo").click()

    viewer = page.locator("#viewer")
    expect(viewer).to_contain_text(page_album.uri("photos/coffee.jpg"))
    expect(viewer.locator("dd")).to_contain_text(["<b>K1</b>"])
    expect(page.locator("#large")).to_have_class(re.compile("there"))
    expect(page.locator("#large")).to_have_js_property("naturalWidth", 600)
    page.get_by_role("button", name="Close", exact=True).click()
    expect(viewer).to_be_hidden()


def test_a_narrow_window_cuts_nothing_off(show: Pages) -> None:
    page = show("/search?q=cat", viewport={"width": 390, "height": 700})
    card(page, 0).locator(".photo").click()
    expect(page.locator("#viewer")).to_be_visible()
    for name_of_one in ("Close", "Next", "More like this", "Copy address"):
        box = page.get_by_role("button", name=name_of_one, exact=True).bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.evaluate("document.documentElement.clientWidth")


def test_names_are_only_text(show: Pages) -> None:
    page = show("/search?q=cat&prefix=odd/")
    expect(cards(page)).to_have_count(len(ODD))
    assert set(names(page)) == set(ODD)
    for index, text in enumerate(names(page)):
        drawn(page, index)
        cards(page).nth(index).locator(".photo").click()
        expect(page.locator("#name")).to_have_text(text)
        expect(page.locator("#large")).to_have_js_property("naturalWidth", 64)
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
    page.goto(page.url.partition("/search")[0] + "/search?q=" + quote("<img src=x onerror=alert(1)>"))
    expect(page.locator("#status")).to_contain_text("“<img src=x onerror=alert(1)>”")
    assert page.locator("img[src=x]").count() == 0


def test_what_goes_wrong_is_said_in_words(show: Pages, page_album: Album) -> None:
    page = show()
    page.evaluate(DROP, file_of("letter.pdf", b"%PDF-1.7 ...", "application/pdf"))
    expect(page.get_by_role("alert")).to_contain_text("The data is a PDF; send JPEG")

    page.goto(page.url.partition("/search")[0] + f"/similar?uri={quote(page_album.uri('none.png'))}")
    expect(page.get_by_role("alert")).to_have_text("There is no such object in the index.")

    page.locator("#query").fill("a" * 10_001)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("10,000 are allowed")

    page.locator("#query").fill("a cat")
    page.context.set_offline(True)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached. Is it still running?")
    page.context.set_offline(False)
    page.keyboard.press("Enter")
    expect(name(page)).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()

    page.goto(page.url.partition("/search")[0] + "/search?q=a&prefix=none")
    expect(page.locator("#status")).to_have_text("Nothing found for “a” with these filters.")


def test_a_picture_that_is_gone_has_a_tile_of_words(show: Pages, page_album: Album) -> None:
    page_album.add({"away/cake.png": emoji()["emoji/birthday cake.png"]})
    page_album.bucket.delete("away/cake.png")

    page = show("/search?q=cake&prefix=away/")

    expect(page.locator(".none")).to_be_visible()
    expect(page.locator(".none")).to_have_text("no preview")


@pytest.mark.parametrize("width", [320, 375])
def test_a_phone(show: Pages, width: int) -> None:
    page = show(
        "/search?q=a+cat&prefix=odd/",
        viewport={"width": width, "height": 640},
        has_touch=True,
        is_mobile=True,
    )
    expect(cards(page)).to_have_count(len(ODD))
    across = "document.documentElement.scrollWidth <= innerWidth"

    assert page.evaluate(across)
    lefts = {card.bounding_box()["x"] for card in cards(page).all()}  # type: ignore[index]
    assert len(lefts) >= 2
    cards(page).first.locator(".photo").tap()
    expect(page.locator("#viewer")).to_be_visible()
    assert page.evaluate(across)
    page.get_by_role("button", name="Close", exact=True).tap()
    cards(page).first.locator(".like").tap()
    expect(page.locator("#status")).to_contain_text("pictures like")


def test_light_and_dark(show: Pages) -> None:
    grounds = [
        show(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]

    assert grounds == ["rgb(250, 248, 245)", "rgb(22, 20, 18)"]


def test_an_empty_index_says_what_to_do(show: Pages, tmp_path: Path) -> None:
    with serving("search", tmp_path / "log", **new_album(tmp_path).settings) as empty:
        page = show("/search?q=a+cat", empty.url)

        expect(page.locator("#notice")).to_contain_text("The index is empty: put pictures into the bucket")


def test_the_key_is_asked_for_once(show: Pages, page_album: Album, log: Path) -> None:
    with serving("search", log, API_KEY=KEY, **page_album.settings) as closed:
        page = show("/search?q=birthday+cake", closed.url)
        asked = page.locator("#ask")
        expect(asked).to_be_visible()
        page.keyboard.type("not the key")
        page.keyboard.press("Enter")
        expect(asked).to_contain_text("That was not the key")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        expect(name(page)).to_have_text(CAKE)
        drawn(page)
        page.reload()
        expect(name(page)).to_have_text(CAKE)
        drawn(page)
        cards(page).first.locator(".photo").click()
        expect(page.locator("#large")).to_have_class(re.compile("there"))
        assert KEY not in page.url
        assert page.context.cookies() == []

        stranger = show("/search?q=birthday+cake", closed.url)
        stranger.get_by_role("button", name="Not now").click()
        expect(stranger.get_by_role("alert")).to_contain_text("locked")
        expect(cards(stranger)).to_have_count(0)
    assert KEY not in log.read_text()


@pytest.mark.full
def test_a_file_in_the_folder_is_found_and_leaves_with_it(show: Pages, tmp_path: Path) -> None:
    folder = new_album(tmp_path)
    photo_folder = tmp_path / "photos"
    make_sample_photos(photo_folder)
    with serving("gateway", tmp_path / "log", **folder.settings) as server:
        page = show("/search?q=birthday+cake", server.url)
        search = page.get_by_role("button", name="Search", exact=True)

        def until(found: Callable[[], bool]) -> None:
            end = time.monotonic() + 60
            while not found():
                assert time.monotonic() < end
                search.click()
                expect(page.locator("#results")).not_to_have_class(re.compile("waiting"))
                page.wait_for_timeout(100)

        until(lambda: cards(page).count() > 0 and name(page).text_content() == "birthday-cake.png")
        drawn(page)
        page.locator("#query").fill("cat face")
        (photo_folder / "new").mkdir()
        (photo_folder / "new" / "tom & jerry.png").write_bytes(emoji()["emoji/cat face.png"])
        new = cards(page).filter(has_text="tom & jerry.png")
        until(lambda: new.count() == 1)
        expect(new.locator(".name")).to_have_text("tom & jerry.png")
        (photo_folder / "new" / "tom & jerry.png").unlink()
        until(lambda: cards(page).count() > 0 and new.count() == 0)
