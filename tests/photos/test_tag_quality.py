"""How good tags are: categories of the emoji as labels, and what texts that say nothing gain."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from clip_embeddings.engine.model import normalize_rows
from clip_embeddings.label_settings import LabelSettings
from clip_embeddings.lazy import Lazy
from clip_embeddings.photos.label_sets import embed_labels, make_label_set
from clip_embeddings.photos.tagger import Tagger
from model_cache.demo.emoji_sheet import load_emoji_sheet
from tests.support.vectors import model

# First and last name of each category, in the order of the sheet, and names that do not belong to it.
RANGES = {
    "animal": ("monkey face", "microbe", {"paw prints", "spider web", "microbe"}),
    "plant": ("bouquet", "fallen leaf", set[str]()),
    "fruit": ("grapes", "coconut", {"olive"}),
    "food": ("grapes", "honey pot", set[str]()),
    "drink": ("glass of milk", "mate", set[str]()),
    "sport": ("soccer ball", "curling stone", set[str]()),
    "clothing": ("glasses", "rescue worker’s helmet", set[str]()),
    "musical instrument": ("saxophone", "long drum", set[str]()),
    "vehicle": ("locomotive", "flying saucer", set[str]()),
}
NO_HEARTS = ("face", "cat", "couple")


def members() -> Mapping[str, set[str]]:
    """The names of each category's emoji."""
    names = [emoji.name for emoji in load_emoji_sheet()]
    found = {
        label: set(names[names.index(first) : names.index(last) + 1]) - others
        for label, (first, last, others) in RANGES.items()
    }
    found["flag"] = {name for name in names if name.startswith("flag:") or name.endswith("flag")}
    found["heart"] = {
        name for name in names if "heart" in name and not any(word in name for word in NO_HEARTS)
    }
    found["clock"] = {name for name in names if any(word in name for word in ("clock", "thirty"))}
    return found


@pytest.mark.parametrize(
    ("has_background", "precision", "recall", "wrong"),
    [(True, (0.77, 0.83), (0.50, 0.56), (0.05, 0.09)), (False, (0.44, 0.50), (0.58, 0.64), (0.34, 0.42))],
)
def test_tags_of_categories(
    has_background: bool,
    precision: tuple[float, float],
    recall: tuple[float, float],
    wrong: tuple[float, float],
) -> None:
    """The figures of docs/photos-and-index.md, a little wider: other CPUs round otherwise."""
    categories, emoji = members(), load_emoji_sheet()
    label_set = make_label_set(LabelSettings(tuple(categories)), model().manifest)
    if not has_background:
        label_set = msgspec.structs.replace(label_set, background=())
    labels = embed_labels(label_set, model().text.get())
    tower = model().image.get()
    pictures = normalize_rows(tower.embed([tower.pixels(each.image) for each in emoji]))

    tagged = Tagger(label_set, "", Lazy(lambda: labels)).tags(pictures)

    right = sum(
        one.name in categories[label] for one, tags in zip(emoji, tagged, strict=True) for label in tags
    )
    stray = [
        tags
        for one, tags in zip(emoji, tagged, strict=True)
        if one.name not in set().union(*categories.values())
    ]
    assert (len(emoji), len(stray)) == (1844, 1123)
    assert precision[0] <= right / sum(map(len, tagged)) <= precision[1]
    assert recall[0] <= right / sum(map(len, categories.values())) <= recall[1]
    assert wrong[0] <= float(np.mean([bool(tags) for tags in stray])) <= wrong[1]
