"""Texts that the demo model is trained on: CLDR names, keywords and prompts, as token ids."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from model_cache.baking.torch_setup import import_open_clip
from model_cache.demo.emoji import Annotation, DrawnEmoji

# Lower case only: the tokenizer converts everything to lower case.
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
# In tokens, with start and end: longer texts are truncated, so that one text cannot slow a batch down.
MAX_TOKENS = 28

_ENGLISH_SHARE = 0.75
_NAME_SHARE, _TEMPLATE_SHARE, _KEYWORD_SHARE = 0.45, 0.25, 0.15  # the rest: several phrases in a row


@dataclass(frozen=True)
class TrainingText:
    """A text, and the indices of all emoji that it describes, the one it was drawn for included."""

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
    """Token ids, int64 [len(texts), longest], padded with zeros and truncated to MAX_TOKENS."""
    _, start, end = _tokenizer()
    rows = [[start, *_encode(text)[: MAX_TOKENS - 2], end] for text in texts]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens


class TextSampler:
    """Draws random training texts for emoji."""

    def __init__(self, emoji: Sequence[DrawnEmoji], seed: int) -> None:
        self._emoji = emoji
        self._random = random.Random(seed)
        self._owners: dict[str, set[int]] = defaultdict(set)
        for index, one in enumerate(emoji):
            for annotation in one.annotations.values():
                for phrase in (annotation.name, *annotation.keywords):
                    self._owners[phrase.casefold()].add(index)
        names = {annotation.name.casefold() for one in emoji for annotation in one.annotations.values()}
        # A keyword that is also the name of an emoji ("cat") is used for that emoji only.
        self._keywords = [
            {
                language: tuple(word for word in annotation.keywords if word.casefold() not in names)
                for language, annotation in one.annotations.items()
            }
            for one in emoji
        ]

    def draw(self, index: int) -> TrainingText:
        """A text for emoji `index`: its name, a prompt with it, a keyword, or several of these."""
        annotations = self._emoji[index].annotations
        foreign_languages = [language for language in annotations if language != "en"]
        english = not foreign_languages or self._random.random() < _ENGLISH_SHARE
        language = "en" if english else self._random.choice(foreign_languages)
        kind = self._random.random()
        if kind < _NAME_SHARE:
            return TrainingText(annotations[language].name, frozenset({index}))
        if kind < _NAME_SHARE + _TEMPLATE_SHARE:
            template = self._random.choice(TEMPLATES) if english else "{}"
            return TrainingText(template.format(annotations[language].name), frozenset({index}))
        keywords = self._keywords[index][language]
        if kind < _NAME_SHARE + _TEMPLATE_SHARE + _KEYWORD_SHARE and keywords:
            keyword = self._random.choice(keywords)
            return TrainingText(keyword, frozenset(self._owners[keyword.casefold()]))
        return self._several_phrases(index, annotations[language])

    def _several_phrases(self, index: int, annotation: Annotation) -> TrainingText:
        phrases = list({annotation.name: None} | dict.fromkeys(annotation.keywords))
        chosen = self._random.sample(phrases, min(len(phrases), self._random.choice((2, 3))))
        owners = frozenset.intersection(*(frozenset(self._owners[phrase.casefold()]) for phrase in chosen))
        return TrainingText(self._random.choice((" ", ", ")).join(chosen), owners)
