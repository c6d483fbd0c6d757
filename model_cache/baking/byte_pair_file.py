"""Writes tokenizer.bpe, CLIP's merges in the form that `clip_embeddings.engine.byte_pairs` reads."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from clip_embeddings.engine.byte_pairs import EMPTY, HEADER, MAGIC, BytePairs
from model_cache.baking.errors import BakeError

# Slots of the hash table for each token: a name is then found with one or two attempts.
SLOTS_PER_TOKEN = 2
END_OF_WORD = "</w>"


def write_byte_pairs(source: Any, path: Path) -> None:
    """Write the vocabulary and merges of `source`, a SimpleTokenizer of open_clip.

    Raises:
        BakeError: its token ids are not in the order of its merges.
    """
    ids, ranks = source.encoder, source.bpe_ranks
    merges = {(ids[left], ids[right]): ids[left + right] for left, right in ranks}
    special = set(source.all_special_ids)
    tokens = sorted(ids, key=ids.__getitem__)
    ordered = sorted(ranks, key=ranks.__getitem__)
    first_merged = len(tokens) - len(special) - len(merges)
    if (
        first_merged != 512
        or [ids[left + right] for left, right in ordered] != list(range(512, 512 + len(merges)))
        or any(max(parts) >= token for parts, token in merges.items())
        or len(tokens) >= EMPTY
    ):
        raise BakeError("The token ids of this tokenizer are not in the order of its merges.")
    names = [_name(source, token, is_special=ids[token] in special) for token in tokens]
    pairs = BytePairs(_file(names, merges, ()))
    reached = [
        token for token, name in enumerate(names) if token in special or _is_reached(pairs, name, token)
    ]
    path.write_bytes(_file(names, merges, reached))


def _name(source: Any, token: str, *, is_special: bool) -> bytes:
    if is_special:
        return token.encode() + b" "
    plain = token.removesuffix(END_OF_WORD)
    return bytes(source.byte_decoder[character] for character in plain) + b" " * (plain != token)


def _is_reached(pairs: BytePairs, name: bytes, token: int) -> bool:
    """Whether the bytes of `token` are merged into it."""
    ends_word = len(name) > 1 and name.endswith(b" ")
    symbols = pairs.symbols(name.removesuffix(b" ") if ends_word else name)
    if ends_word:
        symbols = symbols[:-1] + chr(ord(symbols[-1]) + 256)
    return pairs.merge(symbols) == chr(token)


def _file(names: Sequence[bytes], merges: dict[tuple[int, int], int], reached: Iterable[int]) -> bytes:
    """The file's contents; the hash table holds the tokens `reached`."""
    slots = array("H", [EMPTY]) * (SLOTS_PER_TOKEN * len(names))
    for token in reached:
        slot = crc32(names[token]) % len(slots)
        while slots[slot] != EMPTY:
            slot = (slot + 1) % len(slots)
        slots[slot] = token
    starts = array("I", [0])
    for name in names:
        starts.append(starts[-1] + len(name))
    pairs = sorted((left << 16 | right, token) for (left, right), token in merges.items())
    parts = (
        array("I", [pair for pair, _ in pairs]),
        starts,
        array("H", [token for _, token in pairs]),
        slots,
    )
    header = HEADER.pack(MAGIC, len(names), len(pairs), len(slots), max(map(len, names)))
    return b"".join([header, *(part.tobytes() for part in parts), *names])
