"""What models are judged on: pictures with captions from a CSV file, or pictures in a folder per class."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_cache.evaluating.errors import EvaluationError

# Names of columns, in lower case, by which a first line is a header. As Flickr8k's and open_clip's files have
# them, and common spellings.
PICTURE_COLUMNS = (
    "image",
    "picture",
    "file",
    "filename",
    "filepath",
    "path",
    "url",
    "image_path",
    "image_url",
)
CAPTION_COLUMNS = ("caption", "text", "title", "description")


@dataclass(frozen=True)
class Problem:
    """An item that is left out: what it is, where the data names it, and why."""

    item: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.item}: {self.reason.rstrip('.')}"


@dataclass(frozen=True)
class Pairs:
    """Pictures with captions. A picture is a path, absolute or relative to `folder`, or a URL."""

    folder: Path
    # Distinct (picture, caption), in the order of the file.
    rows: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...] = ()

    @property
    def pictures(self) -> list[str]:
        """The distinct pictures, in the order of the file."""
        return list(dict.fromkeys(picture for picture, _ in self.rows))

    @property
    def captions(self) -> list[str]:
        """The distinct captions, in the order of the file."""
        return list(dict.fromkeys(caption for _, caption in self.rows))


@dataclass(frozen=True)
class LabeledPictures:
    """Pictures, given as paths relative to `folder`, each with the index of its class in `classes`."""

    folder: Path
    classes: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]

    @property
    def pictures(self) -> list[str]:
        """The pictures, class by class."""
        return [picture for picture, _ in self.rows]


def read_pairs(path: Path) -> Pairs:
    """Read a CSV file (or one separated by tabs) with a picture and a caption in each line.

    A picture with several captions has several lines. A first line that names a column of pictures and one of
    captions is a header; without one, the picture comes first and the caption second.

    Raises:
        EvaluationError: the file cannot be read, or has no pair.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise EvaluationError(f"{path} is not UTF-8 text.") from None
    lines = text.splitlines(keepends=True)
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.reader(lines, delimiter=delimiter)
    pairs: dict[tuple[str, str], None] = {}
    problems = []
    picture_column, caption_column = 0, 1
    try:
        for number, cells in enumerate(reader):
            if number == 0 and (columns := _header(cells)):
                picture_column, caption_column = columns
                continue
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name}:{reader.line_num}"
            if len(cells) <= max(picture_column, caption_column):
                problems.append(Problem(",".join(cells), where, "the line has no caption"))
                continue
            picture, caption = cells[picture_column].strip(), cells[caption_column].strip()
            if picture and caption:
                pairs[picture, caption] = None
            else:
                missing = "caption" if picture else "picture"
                problems.append(Problem(picture or caption, where, f"the line has no {missing}"))
    except csv.Error as error:
        raise EvaluationError(f"{path}, line {reader.line_num}: {error}.") from None
    if not pairs:
        raise EvaluationError(f"{path} has no line with a picture and a caption.")
    return Pairs(path.parent, tuple(pairs), tuple(problems))


def _header(cells: Sequence[str]) -> tuple[int, int] | None:
    names = [cell.strip().lower() for cell in cells]
    picture = next((index for index, name in enumerate(names) if name in PICTURE_COLUMNS), None)
    caption = next((index for index, name in enumerate(names) if name in CAPTION_COLUMNS), None)
    return None if picture is None or caption is None else (picture, caption)


def read_classes(folder: Path) -> LabeledPictures:
    """Read a folder with one sub-folder of pictures per class. Its name, `_` read as a space, is the label.

    Every file counts as a picture, except hidden ones; one that is none is listed when it is read.

    Raises:
        EvaluationError: the folder cannot be read, or has fewer than two classes with files.
    """
    try:
        found_classes = [(path, list(_files(path))) for path in sorted(folder.iterdir()) if path.is_dir()]
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be read: {error.strerror or error}.") from None
    filled = [(path.name.replace("_", " "), files) for path, files in found_classes if files]
    if len(filled) < 2:
        raise EvaluationError(f"{folder} must hold at least two folders of pictures, one per class.")
    rows = [
        (str(file.relative_to(folder)), index) for index, (_, files) in enumerate(filled) for file in files
    ]
    return LabeledPictures(folder, tuple(name for name, _ in filled), tuple(rows))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
