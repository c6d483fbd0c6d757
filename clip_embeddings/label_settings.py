"""The labels that photos are tagged with, as settings: parsers of PHOTO_LABELS and what belongs to it.

The parsers raise ValueError, whose message says what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# The file of a staged model with the vectors of labels: see photos/label_sets.py.
LABELS_FILE = "labels.json"
# A label takes this place in a template.
PLACE = "{}"
# The prompt that CLIP's authors use where they name a single one (https://arxiv.org/abs/2103.00020, 3.1.4),
# without the full stop that DEFAULT_TEMPLATE of engine/zero_shot.py has: the bundled model was trained on
# texts without one, and would find a sixth of the tags with it.
DEFAULT_TEMPLATES = ("a photo of a {}",)

MAX_LABELS = 1000
MAX_LABEL_CHARS = 100
MAX_TEMPLATES = 100
MIN_THRESHOLD = 0.001
MAX_FILE_BYTES = 1_000_000
# What a path begins or ends with. Everything else is a list.
PATH_STARTS = ("/", "./", "../")
PATH_END = ".txt"


class LabelSettings(NamedTuple):
    """What photos are tagged with. A tuple, because every function makes this class at start."""

    # Empty: photos are not tagged, unless vectors of labels lie beside the model.
    labels: tuple[str, ...] = ()
    # A label becomes one text per template; the mean of their vectors is its vector.
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    # A photo gets the labels that have at least this probability. None: the default of the kind of model.
    threshold: float | None = None


NO_LABELS = LabelSettings()


def is_path(raw: str) -> bool:
    """Whether a value of PHOTO_LABELS is the path of a file, and not a list of labels."""
    return raw.startswith(PATH_STARTS) or (raw.endswith(PATH_END) and "," not in raw)


def labels(raw: str) -> tuple[str, ...]:
    """Labels separated by commas, or those of a file that has one per line."""
    lines = _read_lines(raw) if is_path(raw) else raw.split(",")
    names = tuple(name for line in lines if (name := " ".join(line.split())))
    if not names:
        raise ValueError("use labels separated by commas, or the path of a file with one per line")
    if len(names) > MAX_LABELS:
        raise ValueError(f"use at most {MAX_LABELS:,} labels, not {len(names):,}")
    seen = dict[str, str]()
    for name in names:
        if len(name) > MAX_LABEL_CHARS or not name.isprintable():
            shown = repr(name[:MAX_LABEL_CHARS])
            raise ValueError(f"use labels of at most {MAX_LABEL_CHARS} printable characters, not {shown}")
        # Models read lower case. The same label twice would halve its probability.
        if name.casefold() in seen:
            raise ValueError(f"use each label once: {seen[name.casefold()]!r} and {name!r} are the same")
        seen[name.casefold()] = name
    return names


def templates(raw: str) -> tuple[str, ...]:
    """Templates separated by `|`, each with `{}` where the label belongs."""
    values = tuple(dict.fromkeys(part.strip() for part in raw.split("|") if part.strip()))
    valid = all(PLACE in value and len(value) <= 10 * MAX_LABEL_CHARS for value in values)
    if not valid or not 0 < len(values) <= MAX_TEMPLATES:
        raise ValueError(f"use 1 to {MAX_TEMPLATES} templates, each with {PLACE} in it, separated by |")
    return values


def threshold(raw: str) -> float:
    """A probability that is not next to nothing."""
    try:
        value = float(raw)
    except ValueError:
        value = 0.0
    if not MIN_THRESHOLD <= value <= 1:
        raise ValueError(f"use a probability from {MIN_THRESHOLD} to 1")
    return value


def _read_lines(path: str) -> list[str]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"use the path of a file that can be read ({error.strerror})") from None
    except ValueError:
        raise ValueError("use the path of a file, without a null byte") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"use a file of at most {MAX_FILE_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("use a file of text in UTF-8") from None
