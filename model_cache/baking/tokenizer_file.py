"""Writes tokenizer.json, a file of the `tokenizers` library, as one line of JSON: the fastest to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from model_cache.baking.errors import BakeError


def write_clip_tokenizer(source: Any, path: Path) -> None:
    """Write the vocabulary and merges of `source`, a SimpleTokenizer of open_clip.

    The file only merges bytes within words: `clip_embeddings.engine.tokenizer` cleans texts and splits them.
    """
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")


def write_library_tokenizer(source: Any, context_length: int, path: Path) -> None:
    """Write the backend of `source`, a tokenizer of transformers, with truncation and without padding.

    Raises:
        BakeError: `source` is implemented in Python and has no such backend.
    """
    backend = getattr(source, "backend_tokenizer", None)
    if backend is None:
        raise BakeError(f"{type(source).__name__} is a tokenizer in Python only, which cannot be baked.")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(context_length)
    tokenizer.no_padding()
    path.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
