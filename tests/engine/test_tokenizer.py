# ruff: noqa: SIM905 (lists of words read better as one string)
"""Token ids equal those of open_clip's own tokenizer, for thousands of generated strings."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from clip_embeddings.engine.manifest import ModelError, TextSpec
from clip_embeddings.engine.tokenizer import load_tokenizer, pad, tokenize
from model_cache.baking.parity_samples import captions
from model_cache.baking.tokenizer_file import write_clip_tokenizer
from model_cache.baking.torch_setup import import_open_clip

START, END = 49406, 49407
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


def generated_texts() -> list[str]:
    """At least 6,500 texts, the same in every run."""
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
    while len(texts) < 6500:
        parts = [rng.choice(rng.choice(POOLS)) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.5:
            parts.append(chr(rng.randint(*rng.choice(BLOCKS))))
        rng.shuffle(parts)
        texts.append(rng.choice(("", " ")).join(parts))
    return texts


@pytest.fixture(scope="module")
def open_clip_tokenizer() -> Any:
    return import_open_clip().SimpleTokenizer()


@pytest.fixture(scope="module")
def tokenizer(open_clip_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_clip_tokenizer(open_clip_tokenizer, path)
    return load_tokenizer(path)


def spec(context_length: int = 77, trim: bool = True) -> TextSpec:
    return TextSpec(context_length, trim, "lower", 0, start_id=START, end_id=END)


@pytest.mark.parametrize("context_length", [77, 600])
def test_ids_equal_open_clip(tokenizer: Tokenizer, open_clip_tokenizer: Any, context_length: int) -> None:
    texts = generated_texts()
    assert len(texts) >= 5000
    assert all(character < "\ud800" or character > "\udfff" for text in texts for character in text)

    ids = pad(tokenize(tokenizer, spec(context_length), texts).ids, spec(context_length, trim=False))

    expected_ids = open_clip_tokenizer(texts, context_length=context_length).numpy()
    different = [
        text
        for text, row, expected in zip(texts, ids, expected_ids, strict=True)
        if row.tolist() != expected.tolist()
    ]
    assert not different, f"{len(different)} differ, such as {different[:5]!r}"


def test_the_generated_texts_are_varied(open_clip_tokenizer: Any) -> None:
    rows = open_clip_tokenizer(generated_texts(), context_length=77)

    assert len({tuple(row.tolist()) for row in rows}) > 4000
    assert len(rows.unique()) > 1000


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [START, END]),
        (" \n\u3000", [START, END]),
        ("a cat", [START, 320, 2368, END]),
        ("A&amp;amp;B", [START, 320, 261, 321, END]),
        ("<end_of_text>", [START, END, END]),
        ("<|endoftext|>", [START, 27, 347, 40786, 4160, 91, 285, END]),
    ],
)
def test_known_ids(tokenizer: Tokenizer, open_clip_tokenizer: Any, text: str, ids: list[int]) -> None:
    assert tokenize(tokenizer, spec(), [text]).ids == [ids]
    assert open_clip_tokenizer([text])[0, : len(ids)].tolist() == ids


def test_long_text_ends_with_the_end_token_and_is_reported(tokenizer: Tokenizer) -> None:
    fits, long, word = "cat " * 75, "cat " * 76, "ab" * 5000

    tokens = tokenize(tokenizer, spec(), [fits, long, "cat", word])

    assert tokens.truncated == [1, 3]
    assert [len(row) for row in tokens.ids] == [77, 77, 3, 77]
    assert all(row[-1] == END for row in tokens.ids)


def test_trimming_pads_to_the_longest_text_only(tokenizer: Tokenizer) -> None:
    rows = tokenize(tokenizer, spec(), ["a cat", "two small dogs"]).ids

    assert pad(rows, spec()).shape == (2, 5)
    assert pad(rows, spec(trim=False)).shape == (2, 77)
    assert pad(rows, spec()).tolist()[0] == [START, 320, 2368, END, 0]


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_a_model_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)

    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer file"):
        load_tokenizer(path)
