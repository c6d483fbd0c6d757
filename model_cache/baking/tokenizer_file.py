"""Writes the file with a text tower's tokenizer: CLIP's merges, or a file of the `tokenizers` library."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from clip_embeddings.engine.manifest import BYTE_PAIR_TOKENIZER, LIBRARY_TOKENIZER
from model_cache.baking.byte_pair_file import write_byte_pairs
from model_cache.baking.checkpoints import TokenizerFile
from model_cache.baking.errors import BakeError


def write_clip_tokenizer(source: Any, folder: Path) -> TokenizerFile:
    """Write the vocabulary and merges of `source`, a SimpleTokenizer of open_clip.

    The file only merges bytes within words: `clip_embeddings.engine.tokenizer` cleans texts and splits them.

    Raises:
        BakeError: its token ids are not in the order of its merges.
    """
    write_byte_pairs(source, folder / BYTE_PAIR_TOKENIZER)
    return TokenizerFile(BYTE_PAIR_TOKENIZER, _sha256(clip_library_file(source)))


def clip_library_file(source: Any) -> str:
    """The same as a file of the library, which earlier versions baked, and which fingerprints still identify:
    they change with the vectors, not with the form of a file."""
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _one_line(tokenizer)


def write_library_tokenizer(source: Any, context_length: int, folder: Path) -> TokenizerFile:
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
    content = _one_line(tokenizer)
    (folder / LIBRARY_TOKENIZER).write_text(content, encoding="utf-8")
    return TokenizerFile(LIBRARY_TOKENIZER, _sha256(content))


def _one_line(tokenizer: Tokenizer) -> str:
    # One line of JSON is the fastest to load.
    return tokenizer.to_str(pretty=False)


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
