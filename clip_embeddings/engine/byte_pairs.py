"""CLIP's byte-pair encoding, read from a table that needs no building: `tokenizer.bpe`, which bake writes.

A word is the symbols of its UTF-8 bytes, the last of which is another symbol than the same byte elsewhere.
Of all neighbors that form a token, those of the lowest rank are merged first, everywhere in the word, until
no neighbors form one: `open_clip.tokenizer.SimpleTokenizer.bpe`. Ids are ordered by rank, and both parts of a
token have lower ids than the token; bake makes sure of that.

The file, in little-endian order:

    MAGIC, then as uint32 the numbers of tokens T, merges M and slots S, and the bytes B of the longest token
    uint32 [M]      the two parts of each merge, left << 16 | right, ascending
    uint32 [T + 1]  where each token's name begins among the names
    uint16 [M]      the token that each merge forms
    uint16 [S]      a hash table, by the CRC-32 of the name: token ids, or EMPTY; the next free slot is used
    bytes           the names, by token id: a token's bytes, and a space if it ends a word

The first 256 tokens are the bytes, and the next 256 the bytes that end a word. The hash table holds the
tokens that their own bytes are merged into, which are almost all, and the special tokens.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import add
from zlib import crc32

MAGIC = b"CLIPBPE1"
HEADER = struct.Struct("<8s4I")
EMPTY = 0xFFFF
# Words of up to CACHED_CHARS characters are remembered, and so are pairs of symbols: a few megabytes at most.
CACHED_CHARS = 32
CACHED_WORDS = 8192
CACHED_PAIRS = 16384
# Bytes of a long word that are first tried for each token wanted from it.
BYTES_PER_TOKEN = 4
# How many of a long word's tokens are tried as the end of its start, and how many tokens ahead the search for
# what may come next looks. With two, no border in random or repeated text was left undecided; with none, half
# of those in letters without spaces.
CANDIDATES = 8
LOOKAHEAD = 2


class BytePairs:
    """The tokens and merges of a `tokenizer.bpe`. Within it, a string has one character for each symbol or
    token, whose code point is the id: a pair is then merged everywhere by one `str.replace`."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError or struct.error if `data` is not the contents of such a file."""
        magic, tokens, merges, slots, self._longest = HEADER.unpack_from(data)
        if magic != MAGIC or not 512 <= tokens < slots:
            raise ValueError("it has another format")
        view = memoryview(data)[HEADER.size :]
        parts = []
        for kind, count in (("I", merges), ("I", tokens + 1), ("H", merges), ("H", slots)):
            part = array(kind)
            size = count * part.itemsize
            part.frombytes(view[:size])
            view = view[size:]
            parts.append(part)
        self._pairs, self._starts, self._merged, self._slots = parts
        self._names = bytes(view)
        if len(self._names) != self._starts[-1]:
            raise ValueError("it is not complete")
        symbols = bytearray(256)
        for symbol, byte in enumerate(self._names[:256]):
            symbols[byte] = symbol
        self._symbols = bytes(symbols)
        self._known_pairs: dict[str, int] = {}
        self._cached = lru_cache(CACHED_WORDS)(self._encode)

    def encode(self, word: str, limit: int) -> Sequence[int]:
        """The token ids of `word`, or at least the first `limit` of them if it has more."""
        return self._cached(word, 0) if len(word) <= CACHED_CHARS else self._encode(word, limit)

    def _encode(self, word: str, limit: int) -> tuple[int, ...]:
        """Like `encode`; all ids if `limit` is 0."""
        data = word.encode()
        if (token := self.find(data + b" ")) is not None:
            return (token,)
        symbols = self.symbols(data)
        symbols = symbols[:-1] + chr(ord(symbols[-1]) + 256)
        return tuple(map(ord, self._merge_start(data, symbols, limit) if limit else self.merge(symbols)))

    def find(self, name: bytes) -> int | None:
        """The token in the hash table whose name is `name`, or None."""
        slot = crc32(name) % len(self._slots)
        while (token := self._slots[slot]) != EMPTY:
            if self._names[self._starts[token] : self._starts[token + 1]] == name:
                return token
            slot = (slot + 1) % len(self._slots)
        return None

    def symbols(self, data: bytes) -> str:
        """The symbols of bytes that do not end a word."""
        return data.translate(self._symbols).decode("latin-1")

    def merge(self, symbols: str) -> str:
        """`symbols`, merged into tokens."""
        # Tokens that may be formed, lowest rank first, and their parts. A pair that no longer occurs when its
        # turn comes is replaced nowhere; it cannot come back later, because its parts have lower ranks.
        parts: dict[int, str] = {}
        known = self._known_pairs
        for pair in map(add, symbols, symbols[1:]):
            token = known[pair] if pair in known else self._look_up(pair)
            if token:
                parts[token] = pair
        heap = list(parts)
        heapify(heap)
        while heap:
            token = heappop(heap)
            rest = symbols.split(parts[token])
            if len(rest) == 1:
                continue
            character = chr(token)
            symbols = character.join(rest)
            pairs = [rest[0][-1:] + character, character + rest[-1][:1]]
            for between in set(rest[1:-1]):
                pairs += (between[-1:] or character) + character, character + (between[:1] or character)
            for pair in pairs:
                new = known[pair] if pair in known else self._look_up(pair)
                if new and new not in parts:
                    parts[new] = pair
                    heappush(heap, new)
        return symbols

    def _look_up(self, pair: str) -> int:
        """The token that the two characters of `pair` form, or 0, which is none that is formed."""
        token = 0
        if len(pair) == 2:
            key = ord(pair[0]) << 16 | ord(pair[1])
            index = bisect_left(self._pairs, key)
            if index < len(self._pairs) and self._pairs[index] == key:
                token = self._merged[index]
        if len(self._known_pairs) >= CACHED_PAIRS:
            self._known_pairs.clear()
        self._known_pairs[pair] = token
        return token

    def _merge_start(self, data: bytes, symbols: str, limit: int) -> str:
        """At least the first `limit` tokens of a word, given as bytes and as symbols, or all that it has.

        The tokens of a text are those of two parts of it, one after the other, if the last token of the first
        part and the first of the second stay as they are when only these two are merged again: the first
        merge across the border would concern no others. So merging a word's start is enough, if it has a
        token that no beginning of the rest would change.
        """
        size = BYTES_PER_TOKEN * limit + 2 * self._longest
        while size < len(symbols):
            tokens = self.merge(symbols[:size])
            end = 0
            for count, token in enumerate(map(ord, tokens[: limit + CANDIDATES]), 1):
                start, end = end, end + self._starts[token + 1] - self._starts[token]
                if count >= limit and self._stays(data, symbols, start, end):
                    return tokens[:count]
            size *= 4
        return self.merge(symbols)

    def _stays(self, data: bytes, symbols: str, start: int, end: int) -> bool:
        """Whether the token from `start` to `end` is the same, whatever the rest's first token is."""
        # Behind this, a token may be one that ends a word.
        if end + (LOOKAHEAD + 1) * self._longest >= len(symbols):
            return False
        harmless = set(self._neighbors(data, symbols, start, end))
        others = (other for other in self._following(data, end) if other not in harmless)
        return not any(self._may_follow(data, symbols, end, other, LOOKAHEAD) for other in others)

    def _may_follow(self, data: bytes, symbols: str, start: int, end: int, tokens: int) -> bool:
        """Whether the token from `start` to `end` may be the rest's first: if `tokens` more can follow it."""
        return tokens == 0 or any(
            self._may_follow(data, symbols, end, other, tokens - 1)
            for other in self._neighbors(data, symbols, start, end)
        )

    def _neighbors(self, data: bytes, symbols: str, start: int, end: int) -> Iterator[int]:
        """Where tokens end that may follow the one from `start` to `end`: both stay if merged together."""
        for other in self._following(data, end):
            both = self.merge(symbols[start:other])
            if len(both) == 2 and self._starts[ord(both[1]) + 1] - self._starts[ord(both[1])] == other - end:
                yield other

    def _following(self, data: bytes, start: int) -> list[int]:
        """Where the tokens end that begin at `start`."""
        ends = range(start + 1, start + self._longest + 1)
        return [end for end in ends if self.find(data[start:end]) is not None]
