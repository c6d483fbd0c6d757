# ruff: noqa: SIM905 (lists of words read better as one string)
"""Texts of all kinds, for comparing tokenizers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from model_cache.baking.parity_samples import captions

# First and last code point of ranges: Latin to Greek with combining marks, Cyrillic to Thai, Hangul jamo,
# Ethiopic to Mongolian, Greek extended, punctuation and symbols, CJK, Hangul, private use and presentation
# forms, half-width forms and specials, then planes 1 (scripts, mathematics, emoji), 2, 14 and 16.
BLOCKS = (
    (0x00, 0x7F),
    (0x80, 0x24F),
    (0x250, 0x3FF),
    (0x400, 0x7FF),
    (0x800, 0xFFF),
    (0x1000, 0x1FFF),
    (0x2000, 0x206F),
    (0x2070, 0x2BFF),
    (0x2C00, 0x33FF),
    (0x3400, 0xA4CF),
    (0xA4D0, 0xD7FF),
    (0xE000, 0xFAFF),
    (0xFB00, 0xFFFF),
    (0x10000, 0x1D7FF),
    (0x1E000, 0x1FAFF),
    (0x20000, 0x323AF),
    (0xE0000, 0xE01EF),
    (0x10FF00, 0x10FFFF),
)
SPACES = [
    *" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\u200b\u2060\ufeff\u180e",
    *map(chr, range(0x2000, 0x200B)),
]
MARKS = [*map(chr, range(0x300, 0x370)), *"\u0483\u05bf\u064b\u093c\u20dd\ufe0f\U0001d165"]
DIGITS = [*"0189", *"٠٣٩", *"۴۷", *"०५९", *"৩", *"๗", *"０９", "Ⅷ", "½", "²", "㊿", "𝟘", "𝟡", "൱"]
ENTITIES = (
    "&amp; &lt; &gt; &quot; &nbsp; &eacute; &amp;amp; &amp;lt;b&amp;gt; &#39; &#x27; "
    "&#233; &#xe9; &#0; &#x110000; &#xD800; &#128; &#150; &amp;#39; &amp;#x1F600; "
    "& &; &#; &#x; &notit; &amp &ltb &unknown; &amp;amp;amp; &NotEqualTilde; &#9;"
).split()
EMOJI = ["😀", "👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇫🇷", "❤️", "☺", "1️⃣", "🧑🏿‍🚀", "👨\u200d", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
RIGHT_TO_LEFT = ["שלום", "עולם", "مرحبا", "بِسْمِ", "ﷺ", "\u200fabc\u200e", "\u202eevil\u202c", "لا"]
MOJIBAKE = [
    *(
        "cafÃ©",
        "â€œquotedâ€\x9d",
        "Ã¼ber",
        "donâ€™t",
        "ï»¿start",
        "Ð¿Ñ€Ð¸Ð²ÐµÑ‚",
        "ðŸ˜€",
        "Â£5",
        "naÃ¯ve",
        "Ã\xa0 la",
    ),
    *("ﬁne ﬂow", "ＦＵＬＬ", "\x1b[31mred\x1b[0m", "\x93x\x94", "Ã", "ÃƒÂ©"),
]
CONTRACTIONS = "it's IT'S we'll they've I'm you'd don't we're 's ''s ' o’clock".split()
CONTRACTIONS += ["it’s", "it‘s", "it`s", "it´s", "it＇s", "it\u02bcs", "'lL", "'Re're", "'ſ", "rock 'n' roll"]
SPECIALS = [
    *(
        "<|endoftext|>",
        "<|startoftext|>",
        "<end_of_text>",
        "<start_of_text>",
        "<END_OF_TEXT>",
        "<Start_Of_Text>",
    ),
    *("pre<end_of_text>post", "x<start_of_text>", "<end_of_text", "end_of_text>", "&lt;end_of_text&gt;"),
    *("<<end_of_text>>", "'s<end_of_text>'s", "<end_of_text><end_of_text>", "<ſtart_of_text>"),
]
CASES = [*"İstanbul ΣΑΣ ß ẞ Ǆ ﬃ ᏸ Ⓐ K Å".split(), "ͅ", "α\u0345", "\u0345\u0345x", "İ'S", "ŉ"]
WORDS = "a photo of Cat DOG supercalifragilistic l33t C++ #tag @me e-mail $9.99".split()
SYLLABLES = (
    "an be con der er fin gra hol ing jo ka light man ness or pre qui ran st tion un ver wh xy zo th"
).split()
CONTROL = [*"\x00\x01\x07\x08\x1b\x7f\x80\x9f\ufffe\uffff\ufffd\U0010ffff"]
POOLS = (
    SPACES,
    MARKS,
    DIGITS,
    ENTITIES,
    EMOJI,
    RIGHT_TO_LEFT,
    MOJIBAKE,
    CONTRACTIONS,
    SPECIALS,
    CASES,
    WORDS,
    CONTROL,
)


def generated_texts(count: int = 6500) -> list[str]:
    """At least `count` texts, 6,500 or more, the same in every run."""
    rng = random.Random(20240607)
    texts: list[str] = [
        "",
        " ",
        "\t\n",
        "\u3000",
        "".join(SPACES),
        "\x00",
        "word " * 500,
        "1" * 300,
        "é" * 300,
    ]
    texts += [
        "ab" * 5000,
        "hello" * 60 + " there",
        "!?" * 400,
        "😀" * 100,
        "٣" * 90,
        "&amp;" * 200,
        "'s" * 100,
    ]
    texts += ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=300)), *captions()]
    for pool in POOLS:
        for part in pool:
            texts += [part, f"a{part}b", f" {part} ", part * 3]
    for first, last in BLOCKS:
        # Characters of one block, alone and between plain words.
        for _ in range(60):
            characters = [chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12))]
            texts += ["".join(characters), f"a {characters[0]} b{characters[-1]}c"]
    for _ in range(600):
        texts.append(" ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 5))) for _ in range(8)))
    while len(texts) < count:
        parts = [rng.choice(rng.choice(POOLS)) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.5:
            parts.append(chr(rng.randint(*rng.choice(BLOCKS))))
        rng.shuffle(parts)
        texts.append(rng.choice(("", " ")).join(parts))
    return texts


def every_character(per_text: int) -> Iterator[str]:
    """Texts that hold each character of Unicode once, `per_text` of each range of neighbors in a text."""
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    for start in range(0, len(points), per_text):
        characters = map(chr, points[start : start + per_text])
        yield "".join(
            f"{character}b" if index % 3 else character for index, character in enumerate(characters)
        )
