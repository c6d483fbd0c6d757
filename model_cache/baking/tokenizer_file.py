"""A tokenizer as a file of the `tokenizers` library: one line of JSON loads fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from model_cache.baking.errors import BakeError


def write_clip(source: Any, path: Path) -> None:
    """Write the vocabulary and merges of open_clip's SimpleTokenizer `source`.

    The file merges words that are cleaned and split already: `clip_embeddings.engine.tokenizer` does both.
    """
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")


def write_library(source: Any, context_length: int, path: Path) -> None:
    """Write the `tokenizers` part of transformers' `source`, cutting at `context_length`, never padding."""
    backend = getattr(source, "backend_tokenizer", None)
    if backend is None:
        raise BakeError(f"{type(source).__name__} is a tokenizer in Python only, which cannot be baked.")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(context_length)
    tokenizer.no_padding()
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
