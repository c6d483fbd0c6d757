"""Token ids equal those of open_clip's own tokenizer, for thousands of generated strings."""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftfy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer

from clip_embeddings.engine.byte_pairs import CACHED_CHARS, CACHED_PAIRS, BytePairs
from clip_embeddings.engine.manifest import BYTE_PAIR_TOKENIZER, LIBRARY_TOKENIZER, ModelError, TextSpec
from clip_embeddings.engine.tokenizer import CLEANERS, load_tokenizer, pad, tokenize
from model_cache.baking.tokenizer_file import clip_library_file, write_clip_tokenizer
from model_cache.baking.torch_setup import import_open_clip
from tests.support.texts import every_character, generated_texts

if TYPE_CHECKING:
    from clip_embeddings.engine.tokenizer import Tokenizer

START, END = 49406, 49407


@pytest.fixture(scope="module")
def open_clip_tokenizer() -> Any:
    return import_open_clip().SimpleTokenizer()


@pytest.fixture(scope="module")
def folder(open_clip_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer as it is baked, and as earlier versions baked it."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_clip_tokenizer(open_clip_tokenizer, path)
    (path / LIBRARY_TOKENIZER).write_text(clip_library_file(open_clip_tokenizer))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> BytePairs:
    loaded = load_tokenizer(folder / BYTE_PAIR_TOKENIZER)
    assert isinstance(loaded, BytePairs)
    return loaded


@pytest.fixture(scope="module")
def library(folder: Path) -> LibraryTokenizer:
    loaded = load_tokenizer(folder / LIBRARY_TOKENIZER)
    assert isinstance(loaded, LibraryTokenizer)
    return loaded


def spec(context_length: int = 77, trim: bool = True) -> TextSpec:
    return TextSpec(context_length, trim, "lower", 0, start_id=START, end_id=END)


def different(
    tokenizer: Tokenizer, open_clip_tokenizer: Any, texts: Sequence[str], context_length: int
) -> list[str]:
    """Those of `texts` whose ids differ from open_clip's, or that are wrongly reported as cut."""
    tokens = tokenize(tokenizer, spec(context_length), texts)
    ids = pad(tokens.ids, spec(context_length, trim=False))
    # One more place shows which texts are cut.
    longer = open_clip_tokenizer(texts, context_length=context_length + 1).numpy()
    expected_ids = open_clip_tokenizer(texts, context_length=context_length).numpy()
    cut = set(tokens.truncated)
    return [
        text
        for index, text in enumerate(texts)
        if ids[index].tolist() != expected_ids[index].tolist() or (longer[index][-1] != 0) != (index in cut)
    ]


@pytest.mark.parametrize("context_length", [77, 600])
def test_ids_equal_open_clip(tokenizer: BytePairs, open_clip_tokenizer: Any, context_length: int) -> None:
    texts = generated_texts()
    assert len(texts) >= 5000
    assert all(character < "\ud800" or character > "\udfff" for text in texts for character in text)

    assert not different(tokenizer, open_clip_tokenizer, texts, context_length)


def test_a_file_of_an_earlier_version_gives_the_same_ids(
    library: LibraryTokenizer, tokenizer: BytePairs
) -> None:
    texts = generated_texts()

    assert tokenize(library, spec(), texts) == tokenize(tokenizer, spec(), texts)


@pytest.mark.full
def test_a_hundred_thousand_texts(tokenizer: BytePairs, open_clip_tokenizer: Any) -> None:
    every = list(every_character(24))
    texts = [*every, *generated_texts(100_000 - len(every))]
    assert len(texts) == 100_000

    for start in range(0, len(texts), 10_000):
        part = texts[start : start + 10_000]
        assert not different(tokenizer, open_clip_tokenizer, part, 200)


ALPHABETS = ("ab", "a", "😂😍", "esntia", "!?.-", "\u4e2d\u306e\u30fc", "\u00e9\u0301z")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    word=st.one_of(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
        *(st.text(alphabet, min_size=1, max_size=300) for alphabet in ALPHABETS),
        st.text(st.sampled_from(ALPHABETS[0]), min_size=1, max_size=6).map(lambda part: part * 150),
    ),
    wanted=st.integers(1, 80),
)
def test_a_word_has_the_tokens_of_the_library(
    tokenizer: BytePairs, library: LibraryTokenizer, word: str, wanted: int
) -> None:
    ids = library.encode([word], is_pretokenized=True, add_special_tokens=False).ids

    start = tokenizer.encode(word, wanted)

    assert list(start[:wanted]) == ids[:wanted]
    assert len(start) in (len(ids), *range(wanted, len(ids)))


def test_the_start_of_a_long_word_is_enough(tokenizer: BytePairs, library: LibraryTokenizer) -> None:
    rng = random.Random(7)
    names = [name for name in tokenizer._names.decode("utf-8", "ignore").split() if name.isalpha()]
    merged = []
    for _ in range(200):
        few = rng.sample(names, rng.choice((1, 2, 3, 20, 2000)))
        word = "".join(rng.choices(few, k=2000))[: rng.randint(CACHED_CHARS, 5000)]
        ids = library.encode([word], is_pretokenized=True, add_special_tokens=False).ids
        wanted = rng.randint(1, 80)
        start = tokenizer.encode(word, wanted)
        assert list(start) == ids[: len(start)], word
        assert len(start) >= min(wanted, len(ids)), word
        merged.append(len(start) / wanted)

    assert sum(merged) / len(merged) < 2


def test_what_it_remembers_is_bounded(folder: Path) -> None:
    pairs = BytePairs((folder / BYTE_PAIR_TOKENIZER).read_bytes())
    rng = random.Random(3)

    for _ in range(10_000):
        pairs.encode("".join(chr(rng.randint(0x100, 0xD7FF)) for _ in range(12)), 77)

    assert len(pairs._known_pairs) <= CACHED_PAIRS


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
def test_known_ids(tokenizer: BytePairs, open_clip_tokenizer: Any, text: str, ids: list[int]) -> None:
    assert tokenize(tokenizer, spec(), [text]).ids == [ids]
    assert open_clip_tokenizer([text])[0, : len(ids)].tolist() == ids


def test_long_text_ends_with_the_end_token_and_is_reported(tokenizer: BytePairs) -> None:
    fits, long, word = "cat " * 75, "cat " * 76, "ab" * 5000

    tokens = tokenize(tokenizer, spec(), [fits, long, "cat", word])

    assert tokens.truncated == [1, 3]
    assert [len(row) for row in tokens.ids] == [77, 77, 3, 77]
    assert all(row[-1] == END for row in tokens.ids)


def test_trimming_pads_to_the_longest_text_only(tokenizer: BytePairs) -> None:
    rows = tokenize(tokenizer, spec(), ["a cat", "two small dogs"]).ids

    assert pad(rows, spec()).shape == (2, 5)
    assert pad(rows, spec(trim=False)).shape == (2, 77)
    assert pad(rows, spec()).tolist()[0] == [START, 320, 2368, END, 0]


@pytest.mark.parametrize("name", [BYTE_PAIR_TOKENIZER, LIBRARY_TOKENIZER])
@pytest.mark.parametrize("content", ["", "{}", "not json", '{"version": "1.0"}', "CLIPBPE1" + "\x7f" * 64])
def test_a_broken_tokenizer_file_is_a_model_error(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(ModelError, match=rf"{name} is not a tokenizer file"):
        load_tokenizer(path)


def test_a_cut_tokenizer_file_is_a_model_error(folder: Path, tmp_path: Path) -> None:
    data = (folder / BYTE_PAIR_TOKENIZER).read_bytes()
    path = tmp_path / BYTE_PAIR_TOKENIZER
    for size in (10, 1000, 300_000, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"tokenizer\.bpe is not a tokenizer file"):
            load_tokenizer(path)


def test_an_ampersand_that_begins_no_entity_needs_no_library() -> None:
    """Such texts skip ftfy. They are cleaned as it and html.unescape would."""
    rng = random.Random(7)
    for _ in range(3000):
        text = "".join(rng.choice("ab &&;#x1ltgmp<'\"") for _ in range(rng.randint(1, 14)))
        expected = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        assert CLEANERS["whitespace"](text) == " ".join(expected.split())
