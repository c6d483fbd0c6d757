"""Swagger UI at /docs in a real browser: Debian's Chromium, headless."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import needs_chromium
from tests.support.serving import KEY, Server, serving

pytestmark = pytest.mark.skipif(
    find_spec("flask_swagger_ui") is None, reason="flask-swagger-ui is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("swagger") / "log"
    with serving("gateway", log, DOCS_PAGE="swagger") as running:
        yield running


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page. Nothing of it comes from elsewhere, and its policy is not violated."""
    page = browser.new_page()
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Policy" in message.text else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:")) else wrong.append(request.url),
    )
    page.goto(f"{url}/docs")
    yield page
    page.close()
    assert wrong == []


@needs_chromium
def test_a_request_is_sent_from_the_page(browser: Browser, server: Server) -> None:
    with opened(browser, server.url) as page:
        operation = page.locator("#operations-embeddings-embed_texts")
        operation.locator(".opblock-summary-control").click()
        body = operation.locator("textarea")
        expect(body).to_have_value(re.compile("birthday cake"))
        expect(operation.locator(".response .highlight-code").first).to_contain_text('"dimensions": 128')
        body.fill('{"texts": ["a cat"]}')
        operation.get_by_role("button", name="Execute").click()

        answer = operation.locator(".live-responses-table .response")
        expect(answer.locator(".response-col_status").first).to_contain_text("200")
        shown = json.loads(answer.locator(".highlight-code code").first.inner_text())
        assert (
            shown["embeddings"] == server.post("/embed/text", json={"texts": ["a cat"]}).json()["embeddings"]
        )
        curl = operation.locator(".curl").inner_text()
        assert f"curl -X 'POST' \\\n  '{server.url}/embed/text" in curl


@needs_chromium
@pytest.mark.full
def test_with_a_key_it_asks_for_it_and_sends_it(browser: Browser, log: Path) -> None:
    with (
        serving("embed_text", log, API_KEY=KEY, DOCS_PAGE="swagger") as closed,
        opened(browser, closed.url) as page,
    ):
        asked = page.locator("#ask")
        expect(asked).to_be_visible()
        page.keyboard.type("not the key")
        page.keyboard.press("Enter")
        expect(asked).to_contain_text("That was not the key")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        operation = page.locator("#operations-embeddings-embed_texts")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        assert KEY not in page.url
    assert KEY not in log.read_text()


def test_it_holds_no_data_and_others_get_the_light_page(server: Server) -> None:
    page = server.get("/docs", headers={"Accept": "text/html"})
    light = server.get("/docs")

    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'; script-src 'self';" in policy
    assert "/embed/text" not in page.text
    assert "/embed/text" in light.text
    assert "Accept" in page.headers["Vary"]
    parts = re.findall(r'(?:src|href)="(docs/[^"]*)"', page.text)
    assert len(parts) == 4
    for part in parts:
        reply = server.get(f"/{part}")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        tag = reply.headers["ETag"]
        assert server.get(f"/{part}", headers={"If-None-Match": tag}).status_code == 304


def test_an_address_that_ends_with_a_slash_leads_to_the_page(server: Server) -> None:
    reply = server.get("/docs/", headers={"Accept": "text/html"})

    assert [each.status_code for each in reply.history] == [308]
    assert reply.url == f"{server.url}/docs"
