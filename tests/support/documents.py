"""The project's pages as data: their fenced blocks with the markers above them, links, headings and tables.

A marker is an HTML comment on the line above a fence. It says how a block is tested:

    <!-- runs: gateway -->              pasted into bash beside a running gateway; every reply must be a 2xx
    <!-- runs: gateway, status 404 -->  the same, but the last reply must have this status
    <!-- runs: server -->               pasted into bash, and left running for the blocks that follow
    <!-- runs: recorded, REASON -->     its programs are replaced by recorders, and their calls are checked;
                                        REASON says why it cannot run for real
    <!-- reply -->                      a JSON block: what the block before it prints has exactly these keys
    <!-- output -->                     a text block: the block before it prints exactly this
    <!-- client: NAME -->               run by `make test-clients` in the environment of that client
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.serving import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)

FENCE = re.compile(
    r"(?:^<!-- (?P<marker>[^>]+) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    # Of the first line inside the fence.
    line: int
    language: str
    text: str
    # The words of the comment above it, or the empty string.
    marker: str

    @property
    def place(self) -> str:
        """Where it stands, as PAGE:LINE."""
        return f"{self.page}:{self.line}"

    @property
    def runner(self) -> str:
        """How it is tested: `gateway`, `server`, `recorded`, `reply`, `output`, `client`, or nothing."""
        if self.client:
            return "client"
        return self.marker.removeprefix("runs: ").partition(",")[0].strip()

    @property
    def client(self) -> str:
        """The client whose environment it is run in, or the empty string."""
        return self.marker.removeprefix("client: ") if self.marker.startswith("client: ") else ""

    @property
    def argument(self) -> str:
        """What stands behind the comma of its marker: a status or a reason."""
        return self.marker.partition(",")[2].strip()


def read_page(page: str) -> str:
    """The text of a page, given by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = read_page(page)
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            text=match["text"],
            marker=match["marker"] or "",
        )
        for match in FENCE.finditer(text)
    ]


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", read_page(page))


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures that lie in the repository."""
    return [
        match["target"]
        for match in LINK.finditer(prose(page))
        if not re.match(r"[a-z]+:", match["target"], re.IGNORECASE)
    ]


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have on GitHub."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_rows(page: str, heading: str) -> Iterator[list[str]]:
    """The cells of each table row below `heading`, up to the next heading of the same level or above."""
    level = heading.partition(" ")[0]
    _, _, below = read_page(page).partition(f"\n{heading}\n")
    assert below, f"{page} has no heading {heading!r}"
    section = re.split(rf"^#{{1,{len(level)}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]
    for line in section.splitlines():
        # The first two rows of a table are its head and the rule below it.
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def shape(value: Any) -> Any:
    """The keys and types of a JSON value; of a list, the shape of its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def example(block: Block) -> Any:
    """A JSON block as a value; `, ...` stands for the rest of a list."""
    return json.loads(re.sub(r",\s*\.\.\.", "", block.text))
