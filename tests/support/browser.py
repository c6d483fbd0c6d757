"""The search page in Debian's Chromium: opening it, and what is on it."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
_EVENT = """async ([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  %s
}"""
DROP = (
    _EVENT
    % """const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("dragover", how));
  document.body.dispatchEvent(new DragEvent("drop", how));"""
)
PASTE = (
    _EVENT
    % """const how = { clipboardData: transfer, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new ClipboardEvent("paste", how));"""
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        # As root, Chromium runs without its sandbox or not at all.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Pages:
    """Opens pages, each in a context of its own. What goes wrong in any of them is kept in `wrong`."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._contexts: list[Any] = []
        self.wrong: list[str] = []

    def __call__(self, path: str = "/", url: str | None = None, **options: Any) -> Page:
        """The page at a path of a server. `options` are those of Browser.new_context."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(15_000)
        page: Page = context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("console", lambda message: self.wrong.extend(violations(message.text)))
        page.goto((url or self._url) + path)
        return page

    def close(self) -> None:
        """Close every page."""
        for context in self._contexts:
            context.close()

    def _dismiss(self, dialog: Any) -> None:
        self.wrong.append(dialog.message)
        dialog.dismiss()


def violations(text: str) -> list[str]:
    """The console's line, if it tells of something that the policy forbids."""
    return [text] if "Content Security Policy" in text or "This document requires 'Trusted" in text else []


def cards(page: Page) -> Locator:
    """The results that are elements: those near what is visible."""
    return page.locator("#results .card")


def card(page: Page, index: int) -> Locator:
    """One result, by its place among all of them."""
    return page.locator(f'#results .card[aria-posinset="{index + 1}"]')


def name(page: Page, index: int = 0) -> Locator:
    """The name of a result."""
    return card(page, index).locator(".name")


def names(page: Page) -> list[str]:
    """The names of the results that are elements, in their order."""
    return page.locator("#results .name").all_text_contents()


def found(page: Page, count: int) -> None:
    """Wait until exactly `count` results are there, all of them known."""
    expect(cards(page).first).to_have_attribute("aria-setsize", str(count))


def drawn(page: Page, index: int = 0) -> None:
    """Wait until a result's thumbnail is there, whole."""
    image = card(page, index).locator("img")
    image.scroll_into_view_if_needed()
    expect(image).to_have_class(re.compile(r"\bthere\b"))
    assert image.evaluate("(image) => image.naturalWidth") > 0


def file_of(name: str, data: bytes, kind: str = "image/jpeg") -> list[str]:
    """What DROP and PASTE take."""
    return [name, kind, base64.b64encode(data).decode()]
