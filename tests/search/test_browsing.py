"""More than a search box: many results, filters, words beside a picture, labels, originals, the map."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Request, expect

from clip_embeddings.index.checks import normalize
from tests.support.albums import Album, emoji, new_album
from tests.support.browser import DROP, Pages, card, cards, drawn, file_of, name, names, needs_chromium
from tests.support.photographs import photos
from tests.support.serving import KEY, ROOT, Server, environment, serving

pytestmark = needs_chromium

MANY = 1050
# What a request may give in all: the page cannot show more.
MOST = 1000
WINDOW = {"width": 1200, "height": 800}
# Adds up the layout shifts that the browser sees.
MEASURE = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""
# What is visible and has nothing that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, canvas, img")]
  .filter((one) => one.checkVisibility() && !one.ariaHidden && !one.hasAttribute("alt"))
  .filter((one) => !one.ariaLabel && !one.textContent.trim() && !one.labels?.length)
  .map((one) => one.outerHTML)"""
# How many different values the bytes of a canvas have.
COLORS = """(canvas) => {
  const { width, height } = canvas;
  return new Set(canvas.getContext("2d").getImageData(0, 0, width, height).data).size;
}"""
ELEMENTS = "document.getElementsByTagName('*').length"
END = "scrollTo(0, document.documentElement.scrollHeight)"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """More objects than a search can give: copies of an emoji, with vectors of their own."""
    folder = tmp_path_factory.mktemp("many")
    album = new_album(folder)
    picture = emoji()["emoji/cat face.png"]
    album.add({"0.png": picture})
    first = album.entry("0.png")
    noise = np.random.default_rng(0).normal(size=(MANY, len(first.vector))).astype(np.float32)
    for index in range(1, MANY):
        Path(f"{folder}/photos/{index}.png").write_bytes(picture)
    stats = {name: album.bucket.stat(name) for name in (f"{index}.png" for index in range(1, MANY))}
    entries = [
        type(first)(
            **{
                **{field: getattr(first, field) for field in first.__dataclass_fields__},
                "name": name,
                "generation": stat.generation,
                "vector": normalize(first.vector + 0.05 * noise[index]),
            }
        )
        for index, (name, stat) in enumerate(stats.items())
        if stat is not None
    ]
    album.index.upsert(entries)
    with serving("search", folder / "log", **album.settings) as running:
        yield running


def known(page: Page) -> int:
    """How many results the page knows, whether they are elements or not."""
    press = page.locator("#results")
    return int(press.evaluate("(list) => Number(list.lastElementChild?.getAttribute('aria-posinset') ?? 0)"))


def scroll_to_the_end(page: Page) -> None:
    """Scroll until every result has been visible."""
    for _ in range(200):
        page.evaluate(END)
        page.wait_for_timeout(40)
        if cards(page).last.get_attribute("aria-setsize") != "-1":
            page.evaluate(END)
            break
    expect(card(page, MOST - 1)).to_be_visible()


def test_a_thousand_results_are_few_elements(show: Pages, many: Server) -> None:
    page = show("/search?q=cat", many.url, viewport=WINDOW)
    page.evaluate(MEASURE)
    drawn(page)
    before = page.evaluate(ELEMENTS)

    scroll_to_the_end(page)

    assert known(page) == MOST
    assert page.evaluate(ELEMENTS) < before + 300 < 1200
    places = [int(one.get_attribute("aria-posinset") or 0) for one in cards(page).all()]
    assert places == sorted(places)
    drawn(page, MOST - 1)
    page.keyboard.press("/")
    page.evaluate("scrollTo(0, 0)")
    drawn(page)
    assert page.evaluate("window.shifts") == 0


@pytest.mark.full
def test_no_task_is_long_while_a_thousand_results_pass(show: Pages, many: Server, browser: Browser) -> None:
    page = show("/search?q=cat", many.url, viewport=WINDOW)
    drawn(page)
    browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline"])
    page.mouse.move(600, 500)
    for _ in range(400):
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(15)
        if known(page) == MOST:
            break
    tasks = task_times(browser.stop_tracing())

    assert known(page) == MOST
    assert len(tasks) > 100
    assert max(tasks) < 50


def task_times(trace: bytes) -> list[float]:
    """Milliseconds of CPU that each task of the page's thread took. Other processes do not count."""
    events = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event.get("tdur", 0) / 1000
        for event in events
        if event["name"] == "RunTask" and (event["pid"], event["tid"]) in threads
    ]


def test_the_start_says_how_many_photos_there_are(show: Pages, page_album: Album) -> None:
    page = show()
    page.evaluate(MEASURE)

    count = f"{page_album.index.count()} photos, found by the model demo."
    expect(page.locator("#count")).to_have_text(count)
    page.wait_for_timeout(100)
    assert page.evaluate("window.shifts") < 0.01
    page.get_by_role("link", name="a <b>thing</b>, 2 photos").click()
    expect(page).to_have_url(re.compile(r"q=a\+%3Cb%3Ething.*&label=a\+%3Cb%3Ething"))
    expect(cards(page)).to_have_count(2)
    assert set(names(page)) == {"coffee.jpg", "rocket.jpg"}


def test_filters_are_in_the_address(show: Pages) -> None:
    page = show("/search?q=cup")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Type").select_option("JPEG")

    expect(page).to_have_url(re.compile(r"content_type=image%2Fjpeg"))
    expect(cards(page)).to_have_count(len(photos()))
    expect(page.get_by_role("button", name="Filters, 1 set")).to_be_visible()
    page.get_by_label("Shows").select_option("a <b>thing</b>")
    expect(cards(page)).to_have_count(2)
    page.get_by_label("Without").fill("a rocket")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("without “a rocket”")
    card(page, 0).locator(".photo").click()
    expect(page.locator("#facts")).to_contain_text("of this, not")
    page.keyboard.press("Escape")
    page.get_by_label("From").fill("2001-02-03")
    page.get_by_label("Before").fill("2001-02-04")
    expect(page.locator("#status")).to_contain_text("Nothing found for “cup”")
    page.reload()
    expect(page.get_by_label("Before")).to_have_value("2001-02-04")
    page.get_by_role("button", name="Clear").click()
    expect(page).to_have_url(re.compile(r"/search\?q=cup$"))
    expect(card(page, 10)).to_be_visible()

    page.goto(page.url + "&label=no+photo")
    expect(page.locator("#status")).to_have_text("Nothing found for “cup” with these filters.")
    expect(page.get_by_label("Shows")).to_have_value("no photo")


def test_a_picture_dropped_beside_words_is_looked_for_with_them(show: Pages) -> None:
    page = show()
    sent: list[Any] = []

    def keep(request: Request) -> None:
        if request.post_data:
            sent.append(json.loads(request.post_data))

    page.on("request", keep)
    page.locator("#query").fill("rocket")
    page.evaluate(DROP, file_of("mine.jpg", photos()["coffee"]))

    expect(page.locator("#status")).to_contain_text("for “rocket” and like yours")
    expect(page.locator("#query")).to_have_value("rocket")
    assert set(sent[-1]) - {"cursor"} == {"text", "image", "k"}
    card(page, 0).locator(".photo").click()
    expect(page.locator("#facts")).to_contain_text("of this, image")
    page.keyboard.press("Escape")
    page.locator("#query").fill("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("for “a cat” and like yours")
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.locator("#status")).to_contain_text("for “a cat”")
    assert set(sent[-1]) - {"cursor"} == {"text", "k"}


def test_keys_work_right_after_a_link_is_opened(show: Pages) -> None:
    page = show("/search?q=birthday+cake")
    expect(name(page)).to_have_text("birthday cake.png")
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text("birthday cake.png")

    page = show("/search?q=birthday+cake")
    expect(name(page)).to_have_text("birthday cake.png")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".photo:focus")).to_have_attribute("data-index", "1")


@pytest.mark.parametrize("words", ["", "a cat"])
def test_what_is_no_picture_leaves_no_broken_one(show: Pages, words: str) -> None:
    page = show()
    page.locator("#query").fill(words)
    page.evaluate(DROP, file_of("letter.txt", b"Dear Sir or Madam", "text/plain"))

    expect(page.get_by_role("alert")).to_contain_text("not an image")
    expect(page.locator("#picture")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 375, 414])
def test_the_placeholder_fits_a_phone(show: Pages, width: int) -> None:
    page = show(viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True)

    assert page.locator("#query").evaluate("""(input) => {
      const brush = document.createElement("canvas").getContext("2d");
      const style = getComputedStyle(input);
      brush.font = style.font;
      const room = input.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      return brush.measureText(input.placeholder).width <= room;
    }""")


def test_a_small_picture_is_not_enlarged(show: Pages) -> None:
    page = show("/search?q=birthday+cake", device_scale_factor=2)
    drawn(page)

    style = "(image) => [getComputedStyle(image).objectFit, getComputedStyle(image).imageRendering]"
    assert card(page, 0).locator("img").evaluate(style) == ["none", "pixelated"]
    page.goto(page.url.partition("/search")[0] + "/search?q=cup&prefix=photos/coffee")
    drawn(page)
    assert card(page, 0).locator("img").evaluate(style) == ["cover", "auto"]


@pytest.mark.full
def test_the_original_in_full_size(show: Pages, page_album: Album, log: Path) -> None:
    page = show("/search?q=cup&prefix=photos/coffee")
    card(page, 0).locator(".photo").click()
    page.get_by_role("button", name="Full size").click()
    expect(page.locator("#large")).to_have_attribute("src", re.compile(r"^original\?uri="))
    expect(page.locator("#large")).to_have_class(re.compile("there"))
    width = page.locator("#large").evaluate("(image) => [image.naturalWidth, image.clientWidth]")
    assert width[0] == width[1]
    page.keyboard.press("f")
    expect(page.locator("#large")).to_have_attribute("src", re.compile(r"^thumbnail\?uri="))

    with serving("search", log, API_KEY=KEY, **page_album.settings) as closed:
        page = show("/search?q=cup", closed.url)
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        card(page, 0).locator(".photo").click()
        expect(page.locator("#large")).to_have_class(re.compile("there"))
        expect(page.locator("#full")).to_be_hidden()


def test_nothing_close_is_said(show: Pages) -> None:
    page = show("/search?q=asdf+qwer+zxcv+uiop")

    expect(page.locator("#status")).to_contain_text("Nothing here is close; these are the nearest for")
    parts = cards(page).locator(".bar").evaluate_all("(bars) => bars.map((bar) => bar.style.cssText)")
    widths = [int(re.sub(r"\D", "", part)) for part in parts]
    assert max(widths) < 50
    assert card(page, 0).locator(".photo").get_attribute("aria-label", timeout=1000)
    expect(card(page, 0)).to_have_class("card far")


def test_every_control_has_a_name(show: Pages) -> None:
    for path in ("/", "/search?q=cat", "/map"):
        page = show(path)
        expect(page.locator("#status")).not_to_contain_text("…")
        nameless = page.evaluate(NAMELESS)
        assert nameless == []
        assert page.evaluate("document.querySelectorAll('main').length") == 1


def test_the_map_is_zoomed_and_opens_photos(show: Pages) -> None:
    page = show("/map", viewport=WINDOW)
    expect(page.locator("#status")).to_contain_text("Those that are alike are near each other.")
    canvas = page.get_by_role("img", name="A map of the photos")
    expect(canvas).to_be_visible()
    page.wait_for_function("document.getElementById('canvas').width > 300")
    page.wait_for_timeout(500)
    assert canvas.evaluate(COLORS) > 50

    before = canvas.evaluate("(canvas) => canvas.toDataURL()")
    page.get_by_role("button", name="Nearer").click()
    page.mouse.move(400, 400)
    page.mouse.wheel(0, -200)
    page.mouse.down()
    page.mouse.move(500, 450, steps=4)
    page.mouse.up()
    expect(page.locator("#viewer")).to_be_hidden()
    page.wait_for_timeout(300)
    assert canvas.evaluate("(canvas) => canvas.toDataURL()") != before
    page.get_by_role("button", name="All of it").click()
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#middle")).to_contain_text("In the middle: ")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    chosen = page.locator("#name").text_content()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#status")).to_contain_text(f"like {chosen}")
    expect(page.locator("#map")).to_be_hidden()
    page.go_back()
    expect(page.locator("#map")).to_be_visible()


def test_a_map_of_an_index_that_does_not_answer_says_so(show: Pages) -> None:
    page = show("/")
    error = {"code": "storage_unavailable", "message": "The index does not answer."}
    headers = {"Embedding-Error-Code": error["code"]}
    # A real one takes half a minute to be given up.
    page.route("**/map", lambda route: route.fulfill(status=503, json={"error": error}, headers=headers))
    page.click("#to-map")

    expect(page.locator("#problem")).to_have_text(error["message"])
    expect(page.locator("#status")).to_have_text("")


def test_the_map_is_reached_from_the_start(show: Pages) -> None:
    page = show()
    page.get_by_role("link", name="See them all on a map").click()
    expect(page).to_have_url(re.compile(r"/map$"))
    expect(page.locator("#status")).to_contain_text("photos.")


def test_near_duplicates_are_side_by_side(show: Pages, tmp_path: Path) -> None:
    album = new_album(tmp_path)
    album.add(emoji(60))
    cake = emoji()["emoji/birthday cake.png"]
    album.add({f"copies/{index}.png": cake for index in range(20)})
    with serving("search", tmp_path / "log", **album.settings) as server:
        page = show("/duplicates", server.url)
        expect(page.locator("#notice")).to_contain_text("python -m functions.duplicates")

        command = [sys.executable, "-m", "functions.duplicates", "--threshold", "0.999"]
        env = environment({**album.settings, "MODEL": "demo"})
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=120)
        page.goto(server.url)
        page.get_by_role("link", name="Find near-duplicates").click()
        expect(page.locator(".group h2").first).to_contain_text("21 photos")
        first = page.locator(".group").first
        expect(first.locator("img")).to_have_count(12)
        expect(first).to_contain_text("and 9 more")
        expect(page.locator("#status")).to_contain_text("almost the same (a score of 0.999 or more, compared")
        assert page.get_by_role("button", name=re.compile("delete|remove", re.I)).count() == 0
        first.locator("button").nth(1).click()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        expect(page.locator("#duplicates")).to_be_visible()
