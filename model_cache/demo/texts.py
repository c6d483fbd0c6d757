"""Texts the demo model is trained on: CLDR names, keywords and prompts, as token ids."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from model_cache.baking.torch_setup import import_open_clip
from model_cache.demo.emoji import DrawnEmoji, Labels

# No upper-case variants: the tokenizer lower-cases everything.
TEMPLATES = (
    "a photo of a {}",
    "a picture of a {}",
    "{} emoji",
    "an emoji of {}",
    "an icon of a {}",
    "a drawing of the {}",
    "a {}",
    "the {}",
)
LONGEST = 28  # tokens, both ends included: longer texts are cut so that one of them cannot slow a batch down

_ENGLISH_SHARE = 0.75
_NAME_SHARE, _TEMPLATE_SHARE, _KEYWORD_SHARE = 0.45, 0.25, 0.15  # the rest: several labels in a row


@dataclass(frozen=True)
class Text:
    """A training text and the emoji, by index, that it describes (always including its own)."""

    text: str
    owners: frozenset[int]


@cache
def _tokenizer() -> tuple[object, int, int]:
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return tokenizer, tokenizer.sot_token_id, tokenizer.eot_token_id


@lru_cache(maxsize=200_000)
def _encode(text: str) -> tuple[int, ...]:
    tokenizer, _, _ = _tokenizer()
    return tuple(tokenizer.encode(text))  # type: ignore[attr-defined]


def tokenize(texts: Sequence[str]) -> Tensor:
    """Token ids int64 [len(texts), longest], zero padded, cut to LONGEST."""
    _, start, end = _tokenizer()
    rows = [[start, *_encode(text)[: LONGEST - 2], end] for text in texts]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens


class TextSampler:
    """Draws training texts for emoji, one at a time, from a seeded random stream."""

    def __init__(self, emoji: Sequence[DrawnEmoji], seed: int) -> None:
        self._emoji = emoji
        self._random = random.Random(seed)
        self._owners: dict[str, set[int]] = defaultdict(set)
        for index, one in enumerate(emoji):
            for labels in one.labels.values():
                for phrase in (labels.name, *labels.keywords):
                    self._owners[phrase.casefold()].add(index)
        names = {labels.name.casefold() for one in emoji for labels in one.labels.values()}
        # A keyword that is the name of some emoji ("cat") must keep meaning that emoji.
        self._keywords = [
            {
                language: tuple(word for word in labels.keywords if word.casefold() not in names)
                for language, labels in one.labels.items()
            }
            for one in emoji
        ]

    def draw(self, index: int) -> Text:
        """A text for emoji ``index``: its name, a prompt around it, a keyword, or several of these."""
        labels = self._emoji[index].labels
        others = [language for language in labels if language != "en"]
        english = not others or self._random.random() < _ENGLISH_SHARE
        language = "en" if english else self._random.choice(others)
        kind = self._random.random()
        if kind < _NAME_SHARE:
            return Text(labels[language].name, frozenset({index}))
        if kind < _NAME_SHARE + _TEMPLATE_SHARE:
            template = self._random.choice(TEMPLATES) if english else "{}"
            return Text(template.format(labels[language].name), frozenset({index}))
        keywords = self._keywords[index][language]
        if kind < _NAME_SHARE + _TEMPLATE_SHARE + _KEYWORD_SHARE and keywords:
            keyword = self._random.choice(keywords)
            return Text(keyword, frozenset(self._owners[keyword.casefold()]))
        return self._several(index, labels[language])

    def _several(self, index: int, labels: Labels) -> Text:
        phrases = list({labels.name: None} | dict.fromkeys(labels.keywords))
        chosen = self._random.sample(phrases, min(len(phrases), self._random.choice((2, 3))))
        owners = frozenset.intersection(*(frozenset(self._owners[phrase.casefold()]) for phrase in chosen))
        return Text(self._random.choice((" ", ", ")).join(chosen), owners)
