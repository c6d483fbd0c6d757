"""The options of the command line `python -m model_cache.evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_embeddings.label_settings import PLACE
from clip_embeddings.paths import ROOT
from model_cache.evaluating.templates import TEMPLATES

DEFAULT_CACHE = ROOT / "build" / "evaluate" / "vectors.sqlite"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse `argv`, by default sys.argv. Exits with status 2 and a usage message if it is not valid."""
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.evaluate",
        description="Judge baked models on pictures of your own: how well captions find pictures and "
        "pictures captions, what zero-shot classification gets right, and what int8 loses.",
        epilog="Exit status: 0 evaluated, 2 not possible as asked, 130 interrupted; run it again to go on.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a baked model, by name or folder")
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="CSV: picture (path from the file's folder, or URL), caption; a line for each caption",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FOLDER",
        help="a folder with a sub-folder of pictures for each class, named after it",
    )
    parser.add_argument(
        "--template",
        action="append",
        type=_template,
        metavar="TEXT",
        dest="templates",
        help="prompt for a class, which stands for {}; may be repeated (default: the seven that OpenAI chose "
        "for CLIP on ImageNet)",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="also run this checkpoint itself, named as for bake, through torch, and compare with it",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="local weights of --reference")
    parser.add_argument("--config", type=Path, metavar="FILE", help="architecture of --reference")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page with the figures and the pictures that the models rank differently",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=DEFAULT_CACHE,
        metavar="FILE",
        help="vectors that were made already (default: build/evaluate/vectors.sqlite)",
    )
    options = parser.parse_args(argv)
    if not options.pairs and not options.classes:
        parser.error("give --pairs, --classes or both")
    if (options.checkpoint or options.config) and not options.reference:
        parser.error("--checkpoint and --config belong to --reference")
    options.templates = tuple(options.templates or TEMPLATES)
    return options


def _template(value: str) -> str:
    if PLACE not in value:
        raise argparse.ArgumentTypeError(f"{value!r} has no {PLACE} for the class")
    return value
