"""A folder of emoji pictures for a first search, cut from the sprite sheet of the demo model."""

from __future__ import annotations

import re
import shutil
import unicodedata
from contextlib import suppress
from pathlib import Path

# First and last name of each range, in the order of the sheet: animals, plants and food; vehicles; activities
# and clothes.
RANGES = (("monkey face", "amphora"), ("locomotive", "flying saucer"), ("rainbow", "ring"))

# What the demo model tags those pictures with: words that it knows well. See PHOTO_LABELS.
LABELS = (
    *("animal", "flower", "tree", "fruit", "vegetable", "dessert", "drink"),
    *("car", "train", "ball", "medal", "shoe", "umbrella"),
)


def make_sample_photos(folder: Path) -> int:
    """Fill a new folder with PNGs such as `birthday-cake.png`; returns how many, 0 if the folder exists.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder.exists():
        return 0
    # Imported late, because only the first start needs it.
    from model_cache.demo.emoji_sheet import load_emoji_sheet

    emoji = load_emoji_sheet()
    positions = {picture.name: position for position, picture in enumerate(emoji)}
    chosen = [picture for first, last in RANGES for picture in emoji[positions[first] : positions[last] + 1]]
    # Renamed once it is complete, so that an interrupted start leaves no folder with too few pictures.
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for picture in chosen:
        picture.image.save(unfinished / f"{file_name(picture.name)}.png")
    # The folder exists if another process has made it meanwhile.
    with suppress(FileExistsError):
        unfinished.rename(folder)
    return len(chosen)


def file_name(name: str) -> str:
    """An emoji's name as ASCII: `piñata` becomes `pinata`, `ear of corn` becomes `ear-of-corn`."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", ascii_name).strip("-")
