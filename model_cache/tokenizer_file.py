"""CLIP's byte-pair merges as a `tokenizers` file: one line of JSON loads fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers


def write_tokenizer(source: Any, path: Path) -> None:
    """Write the vocabulary and merges of open_clip's SimpleTokenizer `source`.

    The file merges words that are cleaned and split already: `functions.engine.tokenizer` does both.
    """
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
