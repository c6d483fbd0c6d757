"""The bundled pictures: every emoji of the demo, on white, in one sprite sheet."""

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


def load_gallery() -> list[Emoji]:
    """All bundled emoji in the order of the sheet.

    Raises OSError if ``gallery.webp`` or ``gallery.json`` is missing.
    """
    listing = json.loads((_FOLDER / "gallery.json").read_text(encoding="utf-8"))
    cell, columns = listing["cell"], listing["columns"]
    with Image.open(_FOLDER / "gallery.webp") as opened:
        sheet = opened.convert("RGB")
    found = []
    for index, entry in enumerate(listing["emoji"]):
        row, column = divmod(index, columns)
        left, top = column * cell, row * cell
        image = sheet.crop((left, top, left + cell, top + cell))
        found.append(Emoji(entry["char"], entry["name"], image))
    return found
