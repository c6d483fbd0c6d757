"""What `python -m clip_embeddings.export` and `load` share: the index, the file, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from clip_embeddings.config import load_settings
from clip_embeddings.errors import ConfigError
from clip_embeddings.exchange.formats import FORMATS, Format
from clip_embeddings.index.factory import open_configured_index, open_index
from clip_embeddings.index.types import Index
from clip_embeddings.postgres_url import mask_password
from clip_embeddings.storage.types import StorageError


def add_arguments(parser: argparse.ArgumentParser, file_help: str) -> None:
    """The options of both commands."""
    parser.add_argument("file", type=Path, help=file_help)
    parser.add_argument("--format", choices=FORMATS, help="by default what the name of FILE ends with")
    parser.add_argument("--index", metavar="URL", help="the index, by default INDEX_URL")
    parser.add_argument("--space", help="only entries of this embedding space")


def chosen_format(options: argparse.Namespace) -> Format:
    """The format of the file. Raises ConfigError if neither its name nor an option says which."""
    name = options.format or options.file.suffix.removeprefix(".")
    if name not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, or the file end with it.")
    return FORMATS[name]


def chosen_index(options: argparse.Namespace) -> Index:
    """The index. Raises ConfigError if there is no such one."""
    settings = load_settings()
    if options.index is None:
        if settings.index.url is None:
            raise ConfigError("INDEX_URL is not set: name the index with it or with --index.")
        return open_configured_index(settings)
    try:
        return open_index(options.index, tombstone_ttl=settings.index.tombstone_ttl)
    except ValueError as error:
        raise ConfigError(f"--index {mask_password(options.index)} is not valid: {error}.") from None


def run(command: str, work: Callable[[], str]) -> int:
    """Print what `work` returns, or in a sentence why it failed; returns the exit status."""
    try:
        print(work(), flush=True)
    except (ConfigError, StorageError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{command}: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{command}: interrupted. Run it again.", file=sys.stderr)
        return 130
    return 0
