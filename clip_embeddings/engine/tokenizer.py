"""Turns text into token ids, exactly as the model's own tokenizer does.

For CLIP, open_clip cleans a text, splits it into words and merges byte pairs. Cleaning and splitting happen
here, with the libraries open_clip uses; byte_pairs.py merges, with the baked `tokenizer.bpe`.

Models baked by earlier versions have a `tokenizer.json` instead, with which the `tokenizers` library merges.
(Its own regular expressions follow an older Unicode version and would split 17,000 characters differently.)
Tokenizers that are not CLIP's are of that library altogether.
"""

from __future__ import annotations

import html
import re
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from clip_embeddings.engine.byte_pairs import BytePairs
from clip_embeddings.engine.manifest import BYTE_PAIR_TOKENIZER, ModelError, TextSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

    # What `tokenize` takes.
    Tokenizer = BytePairs | LibraryTokenizer

# The word pattern and the special tokens of CLIP's tokenizer: open_clip.tokenizer.SimpleTokenizer.
SPECIAL = frozenset({"<start_of_text>", "<end_of_text>"})
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# The same for lower-case ASCII, without the `regex` library.
ASCII_WORDS = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
# What may begin an HTML entity: html.unescape knows none with a space after the ampersand.
MAYBE_ENTITY = re.compile("&[^ ]")
# Characters that the library encodes at once, if one text alone has not more. An encoding takes some hundred
# bytes for each character, and only the ids of the first few tokens are kept.
SLICE_CHARS = 16 * 1024
# Requests take turns with slices above this, so that their encodings are never in memory together.
SHORT_CHARS = 2 * 1024
_long_slice = threading.Lock()


class Tokens(msgspec.Struct, frozen=True):
    """`ids`: token ids of each text, start and end included; `truncated`: indices of the texts cut."""

    ids: list[list[int]]
    truncated: list[int]


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the baked tokenizer. Raises ModelError if the file holds none."""
    try:
        if path.name == BYTE_PAIR_TOKENIZER:
            return BytePairs(path.read_bytes())
        # Imported late: it takes 50 ms.
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelError(f"{path} is not a tokenizer file: {error}") from error


def tokenize(tokenizer: Tokenizer, spec: TextSpec, texts: Sequence[str]) -> Tokens:
    """The token ids of each text, cut at the context length with the end token last."""
    clean = CLEANERS[spec.clean]
    encoded: Iterable[tuple[list[int], bool]]
    if isinstance(tokenizer, BytePairs):
        encoded = (_encode_byte_pairs(tokenizer, spec, clean(text)) for text in texts)
    else:
        encoded = _encode_in_slices(tokenizer, spec, texts)
    rows: list[list[int]] = []
    truncated: list[int] = []
    for ids, is_cut in encoded:
        if is_cut:
            truncated.append(len(rows))
        rows.append(ids)
    return Tokens(rows, truncated)


def _encode_byte_pairs(pairs: BytePairs, spec: TextSpec, text: str) -> tuple[list[int], bool]:
    """The ids of a cleaned text, and whether they were cut."""
    # One more than fits, because a text with that many is cut.
    wanted = spec.context_length - 1
    ids = [spec.start_id]
    for word in _words(text):
        ids += pairs.encode(word, wanted + 1 - len(ids))
        if len(ids) > wanted:
            return [*ids[:wanted], spec.end_id], True
    return [*ids, spec.end_id], False


def _encode_in_slices(
    tokenizer: LibraryTokenizer, spec: TextSpec, texts: Sequence[str]
) -> Iterator[tuple[list[int], bool]]:
    """The ids of each text, and whether they were cut."""
    encode = _encode_library if spec.kind == "library" else _encode_clip
    for part in _slices(texts):
        turn = _long_slice if sum(map(len, part)) > SHORT_CHARS else nullcontext()
        with turn:
            yield from encode(tokenizer, spec, [CLEANERS[spec.clean](text) for text in part])


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """`texts` in lists of at most SLICE_CHARS characters, or of one text."""
    start = chars = 0
    for end, text in enumerate(texts):
        chars += len(text)
        if chars > SLICE_CHARS and end > start:
            yield texts[start:end]
            start, chars = end, len(text)
    yield texts[start:]


def _encode_library(
    tokenizer: LibraryTokenizer, spec: TextSpec, texts: Sequence[str]
) -> Iterator[tuple[list[int], bool]]:
    """The ids of each text, and whether they were cut."""
    for encoding in tokenizer.encode_batch(texts):
        yield encoding.ids, bool(encoding.overflowing)


def _encode_clip(
    tokenizer: LibraryTokenizer, spec: TextSpec, texts: Sequence[str]
) -> Iterator[tuple[list[int], bool]]:
    """The ids of each text, and whether they were cut."""
    # Each word is at least one token, so words that are further back change nothing.
    max_words = spec.context_length - 1
    for ids in _merge(tokenizer, [list(islice(_words(text), max_words)) for text in texts]):
        row = [spec.start_id, *ids, spec.end_id]
        is_cut = len(row) > spec.context_length
        yield [*row[: spec.context_length - 1], spec.end_id] if is_cut else row, is_cut


def pad(rows: Sequence[Sequence[int]], spec: TextSpec) -> np.ndarray:
    """`rows` padded to an (n, length) int64 array.

    `length` is that of the longest row if the tower allows trimming, otherwise the context length.
    """
    length = max(map(len, rows)) if spec.trim else spec.context_length
    batch = np.full((len(rows), length), spec.pad_id, np.int64)
    for index, row in enumerate(rows):
        start = length - len(row) if spec.pad_side == "left" else 0
        batch[index, start : start + len(row)] = row
    return batch


def _words(text: str) -> Iterator[str]:
    if text.isascii() and text == text.lower():
        return (match.group() for match in ASCII_WORDS.finditer(text))
    # Imported late: a process without a text tower does not need it.
    import regex

    return (match.group() for match in regex.finditer(WORDS, text, regex.IGNORECASE))


def _merge(tokenizer: LibraryTokenizer, texts: Sequence[Sequence[str]]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(texts, is_pretokenized=True, add_special_tokens=False)
    return [
        encoding.ids if SPECIAL.isdisjoint(words) else _merge_special(tokenizer, words)
        for words, encoding in zip(texts, encodings, strict=True)
    ]


def _merge_special(tokenizer: LibraryTokenizer, words: Sequence[str]) -> list[int]:
    """The ids of a text that contains the name of a special token: it becomes that token, as in open_clip."""
    ids: list[int] = []
    for word in words:
        if word in SPECIAL:
            ids.append(tokenizer.token_to_id(word) or 0)
        else:
            ids += tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids
    return ids


def _clean_whitespace(text: str) -> str:
    return " ".join(_unescape(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def _clean_canonicalize(text: str) -> str:
    return " ".join(_unescape(text).translate(_NO_PUNCTUATION).lower().split())


def _unescape(text: str) -> str:
    # ftfy does not change printable ASCII without entities, so most texts skip its import.
    if text.isascii() and text.isprintable() and not MAYBE_ENTITY.search(text):
        return text.strip()
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


# open_clip's cleaning rules, by its own names (open_clip.tokenizer.get_clean_fn), and `none`.
CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _clean_lower,
    "whitespace": _clean_whitespace,
    "canonicalize": _clean_canonicalize,
    "none": str,
}
