"""The demo model's data: emoji drawn with Noto Color Emoji, named by Unicode CLDR.

`python -m model_cache.demo.emoji` rewrites the bundled sheet (`emoji_sheet.webp`, `emoji_sheet.json`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont, features

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
CLDR = Path("/usr/share/unicode/cldr/common")
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "ru", "ar", "ja", "zh")

STRIKE = 109  # the only size at which the font has bitmaps
GLYPH = (136, 128)  # pixels of one bitmap at that size
CANVAS = 160  # side of the square that shows an emoji: the glyph and a margin around it
CELL = 64  # side of a cell of the sheet
COLUMNS = 48

_SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_NO_SUCH_CHARACTER = "\U0010fffd"
_ASCII_END = 0x80  # the font has bitmaps of ASCII digits too, but only as parts of keycap emoji
_MIN_EMOJI = 1500


class DataMissingError(Exception):
    """The font or the CLDR data is not installed or not usable; the message says what to install."""


@dataclass(frozen=True)
class Annotation:
    """The name and keywords that CLDR has for an emoji in one language."""

    name: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class DrawnEmoji:
    """An emoji with its bitmap (RGBA, 136x128, transparent background)."""

    char: str
    glyph: Image.Image
    # By language code: always "en", and the others of LANGUAGES for which CLDR has an annotation.
    annotations: dict[str, Annotation]

    @property
    def name(self) -> str:
        """The English CLDR name."""
        return self.annotations["en"].name


def load_emoji() -> list[DrawnEmoji]:
    """Draw every named emoji of the font, except skin-tone variants and duplicates.

    Of several emoji with the same bitmap or the same English name only the first is kept.

    Raises:
        DataMissingError: the font or the CLDR data is not installed.
    """
    font = _load_font()
    annotations = {language: _read_annotations(language) for language in LANGUAGES}
    bitmaps = {_draw(font, _NO_SUCH_CHARACTER).tobytes(), Image.new("RGBA", GLYPH).tobytes()}
    names: set[str] = set()
    drawn = []
    for char, english in annotations["en"].items():
        if _SKIN_TONES & set(char) or (len(char) == 1 and ord(char) < _ASCII_END):
            continue
        if font.getlength(char) > GLYPH[0]:
            continue  # drawn as several glyphs: the font has no emoji for this sequence
        glyph = _draw(font, char)
        if glyph.tobytes() in bitmaps or english.name in names:
            continue
        bitmaps.add(glyph.tobytes())
        names.add(english.name)
        by_language = {
            language: annotations[language][char] for language in LANGUAGES if char in annotations[language]
        }
        drawn.append(DrawnEmoji(char, glyph, by_language))
    if len(drawn) < _MIN_EMOJI:
        raise DataMissingError(
            f"only {len(drawn)} emoji could be drawn, {_MIN_EMOJI} are needed: install the Debian packages "
            "fonts-noto-color-emoji and unicode-cldr-core, and a Pillow with Raqm layout"
        )
    return drawn


def on_white(emoji: DrawnEmoji, side: int = CANVAS) -> Image.Image:
    """The emoji centered on a white square (RGB, CANVAS x CANVAS, resized to `side` x `side`)."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    canvas.paste(emoji.glyph, ((CANVAS - GLYPH[0]) // 2, (CANVAS - GLYPH[1]) // 2), emoji.glyph)
    return canvas if side == CANVAS else canvas.resize((side, side), Image.Resampling.BICUBIC)


def write_emoji_sheet(emoji: Sequence[DrawnEmoji], folder: Path) -> None:
    """Write `emoji_sheet.webp` (cells of 64x64 pixels, row by row) and `emoji_sheet.json` into `folder`."""
    rows = -(-len(emoji) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * CELL), "white")
    for index, one in enumerate(emoji):
        row, column = divmod(index, COLUMNS)
        sheet.paste(on_white(one, CELL), (column * CELL, row * CELL))
    sheet.save(folder / "emoji_sheet.webp", quality=85, method=6)
    listing = {
        "cell": CELL,
        "columns": COLUMNS,
        "emoji": [{"char": one.char, "name": one.name} for one in emoji],
    }
    text = json.dumps(listing, ensure_ascii=False, indent=0)
    (folder / "emoji_sheet.json").write_text(text + "\n", encoding="utf-8")


def _load_font() -> ImageFont.FreeTypeFont:
    if not FONT.is_file():
        raise DataMissingError(f"no font at {FONT}: install the Debian package fonts-noto-color-emoji")
    layout = ImageFont.Layout.RAQM if features.check("raqm") else ImageFont.Layout.BASIC
    return ImageFont.truetype(str(FONT), STRIKE, layout_engine=layout)


def _draw(font: ImageFont.FreeTypeFont, char: str) -> Image.Image:
    left, top, right, bottom = font.getbbox(char)
    glyph = Image.new("RGBA", GLYPH)
    position = (GLYPH[0] / 2 - (left + right) / 2, GLYPH[1] / 2 - (top + bottom) / 2)
    ImageDraw.Draw(glyph).text(position, char, font=font, embedded_color=True)
    return glyph


def _read_annotations(language: str) -> dict[str, Annotation]:
    """The annotations in one language, by emoji."""
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for folder in ("annotations", "annotationsDerived"):
        path = CLDR / folder / f"{language}.xml"
        if not path.is_file():
            raise DataMissingError(f"no emoji names at {path}: install the Debian package unicode-cldr-core")
        for annotation in ElementTree.parse(path).iter("annotation"):
            char, text = annotation.attrib["cp"], annotation.text or ""
            if annotation.get("type") == "tts":
                names[char] = text.strip()
            else:
                keywords[char] = tuple(part.strip() for part in text.split("|") if part.strip())
    return {char: Annotation(name, keywords.get(char, ())) for char, name in names.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write the sheet; returns the exit status (2 if the font or data is missing)."""
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.demo.emoji",
        description="Draw the emoji sheet: all emoji on white.",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    options = parser.parse_args(arguments)
    try:
        emoji = load_emoji()
    except DataMissingError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    write_emoji_sheet(emoji, options.out)
    size = (options.out / "emoji_sheet.webp").stat().st_size
    print(f"{len(emoji)} emoji, {size / 1e6:.2f} MB in {options.out / 'emoji_sheet.webp'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
