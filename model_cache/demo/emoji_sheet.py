"""The emoji sheet: the bundled image that shows every emoji of the demo model on white, in cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Emoji:
    """An emoji, its English CLDR name, and its picture on white (RGB, 64x64 pixels)."""

    char: str
    name: str
    image: Image.Image


def load_emoji_sheet() -> list[Emoji]:
    """All bundled emoji, in the order of the sheet: row by row.

    Raises:
        OSError: `emoji_sheet.webp` or `emoji_sheet.json` is missing.
    """
    listing = json.loads((_FOLDER / "emoji_sheet.json").read_text(encoding="utf-8"))
    cell, columns = listing["cell"], listing["columns"]
    with Image.open(_FOLDER / "emoji_sheet.webp") as opened:
        sheet = opened.convert("RGB")
    emoji = []
    for index, entry in enumerate(listing["emoji"]):
        row, column = divmod(index, columns)
        left, top = column * cell, row * cell
        image = sheet.crop((left, top, left + cell, top + cell))
        emoji.append(Emoji(entry["char"], entry["name"], image))
    return emoji
