"""Embed the labels that photos are tagged with, for a function that has no text tower.

PHOTO_LABELS=cat,dog,receipt MODEL=clip-vit-base-patch32 python -m model_cache.embed_labels labels.json

`deploy.sh` runs it when it stages such a function. The settings are those of the functions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_embeddings.config import load_settings
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine.manifest import ModelError, find_model_folder
from clip_embeddings.engine.model import load_model
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.errors import ConfigError
from clip_embeddings.paths import MODEL_CACHE
from clip_embeddings.photos.label_sets import embed_labels, make_label_set, write_labels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 written, 1 not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.embed_labels", description="Embed PHOTO_LABELS with MODEL, to a file."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to write, such as labels.json")
    options = parser.parse_args(argv)
    try:
        _embed(options.file)
    except (ConfigError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.file} cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    return 0


def _embed(file: Path) -> None:
    settings = load_settings()
    labels = settings.photos.labels
    if not labels.labels:
        raise ConfigError("PHOTO_LABELS is not set: use labels separated by commas, or the path of a file.")
    folder = find_model_folder(settings.model, MODEL_CACHE)
    # A lack of the tower, or of what else the labels need, is reported before the model is opened.
    model = load_model(
        folder,
        ("text",),
        scheduler=Scheduler(settings.threads or usable_cpus(), settings.queue),
        allow_missing_towers=True,
        verify_first=True,
    )
    label_set = make_label_set(labels, model.manifest)
    write_labels(label_set, embed_labels(label_set, model.text.get()), file)


if __name__ == "__main__":
    sys.exit(main())
