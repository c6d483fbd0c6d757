"""Measures a demo checkpoint: how often a search by name finds the emoji, and the reverse."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from model_cache.demo.emoji import DrawnEmoji, on_white
from model_cache.demo.emoji_sheet import load_emoji_sheet
from model_cache.demo.model import encode_image, encode_text, eval_transform
from model_cache.demo.texts import tokenize

CAKE_QUERIES = (
    "birthday cake",
    "a photo of a birthday cake",
    "BIRTHDAY CAKE",
    "the birthday cake",
    "birthday cake emoji",
    "cake for a birthday",
    "Geburtstagskuchen",
    "gâteau d'anniversaire",
)
_BATCH = 256


@dataclass(frozen=True)
class Recall:
    """Shares (0 to 1) of queries whose answer is first, and among the first five."""

    name: str
    recall_1: float
    recall_5: float


@dataclass(frozen=True)
class Figures:
    """All figures of one checkpoint; `cake_ranks` maps queries to the rank of the birthday cake."""

    emoji: int
    figures: tuple[Recall, ...]
    cake_ranks: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain JSON-ready values."""
        return asdict(self)

    def table(self) -> str:
        """The figures as a Markdown table and a list."""
        lines = [f"{self.emoji} emoji", "", "| query to answers | R@1 | R@5 |", "| --- | --- | --- |"]
        lines += [f"| {one.name} | {one.recall_1:.3f} | {one.recall_5:.3f} |" for one in self.figures]
        lines += ["", "Place of the birthday cake among the emoji on white:", ""]
        lines += [f"- {query!r}: {rank}" for query, rank in self.cake_ranks.items()]
        return "\n".join(lines)


@torch.no_grad()
def embed_pictures(model: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """L2-normalized embeddings [len(pictures), embed_dim], with the standard preprocessing."""
    transform = eval_transform()
    parts = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
    return torch.cat([encode_image(model, torch.stack([transform(one) for one in part])) for part in parts])


@torch.no_grad()
def embed_texts(model: Any, texts: Sequence[str]) -> Tensor:
    """L2-normalized embeddings [len(texts), embed_dim]."""
    parts = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    return torch.cat([encode_text(model, tokenize(part)) for part in parts])


def white_recall(model: Any, emoji: Sequence[DrawnEmoji]) -> float:
    """R@1 from English names to emoji on white."""
    texts = embed_texts(model, [one.name for one in emoji])
    return _recall("", texts, embed_pictures(model, [on_white(one) for one in emoji])).recall_1


def evaluate(model: Any, emoji: Sequence[DrawnEmoji]) -> Figures:
    """Measure `model` (in eval mode) on the emoji and on the bundled emoji sheet."""

    def drawn(draw: Callable[[DrawnEmoji], Image.Image]) -> Tensor:
        return embed_pictures(model, [draw(one) for one in emoji])

    def prompts(template: str) -> Tensor:
        return embed_texts(model, [template.format(one.name) for one in emoji])

    names, white, unseen = prompts("{}"), drawn(on_white), drawn(held_out)
    figures = [
        _recall("name to emoji on white", names, white),
        _recall("emoji on white to name", white, names),
        _recall('"a photo of a {name}" to emoji on white', prompts("a photo of a {}"), white),
        _recall('"this shows {name}" (not trained on) to emoji on white', prompts("this shows {}"), white),
        _recall("name to held-out rendering", names, unseen),
        _recall("name to emoji on white, JPEG quality 50", names, drawn(lambda one: _as_jpeg(on_white(one)))),
        _recall("name to emoji on white, enlarged 3 times", names, drawn(lambda one: on_white(one, 480))),
        _recall("picture on white to its held-out rendering", white, unseen),
    ]
    cells = load_emoji_sheet()
    cell_names = embed_texts(model, [cell.name for cell in cells])
    cell_images = embed_pictures(model, [cell.image for cell in cells])
    figures.append(_recall("name to cell of the bundled sheet", cell_names, cell_images))
    cake = next(number for number, one in enumerate(emoji) if one.name == "birthday cake")
    scores = embed_texts(model, CAKE_QUERIES) @ white.T
    ranks = 1 + (scores > scores[:, cake : cake + 1]).sum(dim=1)
    return Figures(len(emoji), tuple(figures), dict(zip(CAKE_QUERIES, ranks.tolist(), strict=True)))


def held_out(emoji: DrawnEmoji) -> Image.Image:
    """A picture unlike those of the training: a plain, striped or checkered background, 96 to 320 pixels.

    The emoji is rotated by up to 10 degrees and fills 55 to 90 % of the width. The same emoji always
    gives the same picture.
    """
    rng = random.Random(f"held out {emoji.char}")
    side = rng.randint(96, 320)
    colors = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(2)]
    picture = Image.new("RGB", (side, side), colors[0])
    pen, step, kind = ImageDraw.Draw(picture), side / rng.randint(3, 8), rng.randrange(3)
    for row in range(9):
        for column in range(9):
            if kind and (row + (column if kind == 1 else 0)) % 2:
                box = (column * step, row * step, (column + 1) * step - 1, (row + 1) * step - 1)
                pen.rectangle(box, fill=colors[1])
    glyph = emoji.glyph.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    share = rng.uniform(0.55, 0.9) * side / max(glyph.size)
    glyph = glyph.resize((round(glyph.width * share), round(glyph.height * share)), Image.Resampling.BICUBIC)
    spare = side - glyph.width, side - glyph.height
    left, top = (int(one * rng.uniform(0.3, 0.7)) for one in spare)
    picture.paste(glyph, (left, top), glyph)
    return picture


def _as_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def _recall(name: str, queries: Tensor, answers: Tensor) -> Recall:
    """The recall where row i of `queries` belongs to row i of `answers`; ties count as misses."""
    scores = queries @ answers.T
    correct = scores.diagonal()[:, None]
    rank = (scores >= correct).sum(dim=1)
    return Recall(name, *((rank <= limit).float().mean().item() for limit in (1, 5)))
