"""The figures as one HTML page without other files: tables, and pictures that models answer differently."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from clip_embeddings.config import Settings
from clip_embeddings.errors import ApiError
from clip_embeddings.images.decoding import decode_image
from clip_embeddings.images.thumbnails import thumbnail
from model_cache.evaluating.differences import caption_differences, picture_differences
from model_cache.evaluating.evaluation import Evaluation
from model_cache.evaluating.pictures import read_pictures
from model_cache.evaluating.report import directions, name, sections

# Captions and pictures that the page shows, each.
SHOWN = 50
# Longest side of a picture on the page, in pixels.
THUMBNAIL = 160
_BATCH = 16
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin-top: 2.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #8884; vertical-align: top }
th:first-child, td:first-child { text-align: left }
td { white-space: nowrap }
td.left, th.left { text-align: left; white-space: normal }
td:first-child { white-space: normal; overflow-wrap: anywhere }
img { display: block; max-width: 160px; max-height: 160px }
.right { color: light-dark(#176a2b, #7fd894) }
.wrong { color: light-dark(#a3241b, #ff9d94) }
"""


def write_page(evaluation: Evaluation, settings: Settings, path: Path) -> None:
    """Write the page to `path`.

    Raises:
        OSError: the file cannot be written.
    """
    body = [_table(one.title, one.head, one.rows) for one in sections(evaluation)]
    body += [*_captions(evaluation, settings), *_pictures(evaluation, settings)]
    if evaluation.problems:
        rows = [[problem.item, problem.where, problem.reason] for problem in evaluation.problems]
        body.append(_table(f"left out ({len(rows):,})", ["where", "why"], rows))
    title = " and ".join(model.embedder.name for model in evaluation.models)
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        "<p>Shares are in percent; in brackets the interval of 95 % of a bootstrap over the pictures.</p>\n"
        + "\n".join(body)
        + "\n</html>\n",
        encoding="utf-8",
    )


def _captions(evaluation: Evaluation, settings: Settings) -> Iterator[str]:
    models = [model for model in evaluation.models if model.retrieval]
    if not models or evaluation.pairs is None or evaluation.folder is None:
        return
    searches = [directions(model)[0] for model in models]
    shown, count = caption_differences(evaluation.pairs, searches, SHOWN)
    wanted = [picture for one in shown for picture in (one.own[0], *one.first)]
    images = _thumbnails(wanted, evaluation.folder, settings)
    rows = []
    for one in shown:
        cells = [escape(one.caption), _image(one.own[0], images)]
        for place, first in zip(one.ranks, one.first, strict=True):
            verdict = _verdict(f"place {place}", place == 1)
            cells.append(verdict if place == 1 else f"{verdict}, first comes: {_image(first, images)}")
        rows.append(cells)
    what = "that the models rank differently" if len(models) > 1 else "whose picture does not come first"
    title = f"captions {what} ({len(shown):,} of {count:,})"
    yield _raw_table(title, ["caption", "its picture", *(escape(name(model)) for model in models)], rows)


def _pictures(evaluation: Evaluation, settings: Settings) -> Iterator[str]:
    models = [(name(model), model.classification) for model in evaluation.models if model.classification]
    if not models or evaluation.labeled is None:
        return
    shown, count = picture_differences(evaluation.labeled, [one for _, one in models], SHOWN)
    images = _thumbnails([one.picture for one in shown], evaluation.labeled.folder, settings)
    rows = [
        [
            _image(one.picture, images),
            escape(one.label),
            *(_verdict(escape(answer), answer == one.label) for answer in one.answers),
        ]
        for one in shown
    ]
    what = "to which the models give different classes" if len(models) > 1 else "with a wrong class"
    title = f"pictures {what} ({len(shown):,} of {count:,})"
    yield _raw_table(title, ["picture", "class", *(escape(title) for title, _ in models)], rows)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _raw_table(title, ["", *map(escape, head)], [[escape(cell) for cell in row] for row in rows], "")


def _raw_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = ' class="left"'
) -> str:
    """A table whose cells are HTML."""
    top = "".join(f"<th{kind}>{cell}</th>" for cell in head)
    lines = ["".join(f"<td{kind}>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<h2>{escape(title)}</h2>\n<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _verdict(text: str, right: bool) -> str:
    return f'<span class="{"right" if right else "wrong"}">{text}</span>'


def _image(picture: str, images: Mapping[str, str]) -> str:
    if picture not in images:
        return escape(picture)
    return f'<img src="{images[picture]}" alt="{escape(picture)}" title="{escape(picture)}" loading="lazy">'


def _thumbnails(pictures: Sequence[str], folder: Path, settings: Settings) -> dict[str, str]:
    """Small JPEGs as data URIs, by picture, of those that can still be read."""
    images = {}
    for part in read_pictures(list(dict.fromkeys(pictures)), folder, settings, _BATCH):
        for picture, data in part:
            if isinstance(data, bytes) and (small := _thumbnail(data, settings)):
                images[picture] = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
    return images


def _thumbnail(data: bytes, settings: Settings) -> bytes | None:
    limits = settings.limits
    try:
        image = decode_image(
            data,
            settings=settings.images,
            max_pixels=limits.image_pixels,
            target=THUMBNAIL,
            timeout=limits.decode_timeout,
        )
    except ApiError:
        return None
    return thumbnail(image, THUMBNAIL)
