"""A folder of emoji pictures for a first search, out of the sheet that the demo model comes with."""

from __future__ import annotations

import re
import shutil
import unicodedata
from contextlib import suppress
from pathlib import Path

# First and last, in the order of the sheet: animals, plants and food; vehicles; things to do and to wear.
RANGES = (("monkey face", "amphora"), ("locomotive", "flying saucer"), ("rainbow", "ring"))


def make_gallery(folder: Path) -> int:
    """Fill `folder` with PNGs such as `birthday-cake.png`, unless there is such a folder; returns how many.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder.exists():
        return 0
    # Imported late: only the first start needs it.
    from model_cache.demo.emoji_sheet import load_emoji_sheet

    emoji = load_emoji_sheet()
    at = {one.name: index for index, one in enumerate(emoji)}
    chosen = [one for first, last in RANGES for one in emoji[at[first] : at[last] + 1]]
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for one in chosen:
        one.image.save(unfinished / f"{file_name(one.name)}.png")
    # Another process may have been quicker.
    with suppress(FileExistsError):
        unfinished.rename(folder)
    return len(chosen)


def file_name(name: str) -> str:
    """`piñata` -> `pinata`, `ear of corn` -> `ear-of-corn`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")
