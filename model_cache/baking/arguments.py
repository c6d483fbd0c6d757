"""The options of the command line `python -m model_cache.bake`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_embeddings.engine.manifest import TOWERS
from model_cache.baking.catalogue import DEFAULT_MODEL
from model_cache.baking.recall_bound import MAX_RECALL_LOSS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse `argv`, by default sys.argv. Exits with status 2 and a usage message if it is not valid."""
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.bake",
        description="Turn an open_clip checkpoint into ONNX towers, a tokenizer and a manifest.",
        epilog="Set HF_ENDPOINT to download from another hub. Exit status: 0 baked, 2 not possible as asked.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="a name from --list, ARCH/PRETRAINED as open_clip spells it, or ARCH with --checkpoint "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="local weights: .pt or .safetensors (a folder where a model has text and image weights apart)",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="architecture of your own, in open_clip's JSON form"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "int8"),
        default="auto",
        help="auto takes int8 where it stays close to float32 (default)",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="CSV of pictures and captions, as for model_cache.evaluate: auto then takes int8 only where "
        "search on them stays as good, besides",
    )
    parser.add_argument(
        "--max-recall-loss",
        type=float,
        default=MAX_RECALL_LOSS,
        metavar="POINTS",
        help="hundredths of R@1 that int8 may lose on --pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--towers",
        type=_tower_names,
        metavar="text,image",
        help="what to bake (default: every tower that the model has)",
    )
    parser.add_argument(
        "--quick-gelu",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="override the activation; default: what the pretrained tag says, else the architecture",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: model_cache/<name>)"
    )
    parser.add_argument(
        "--list",
        nargs="?",
        const="catalogue",
        choices=("catalogue", "all"),
        help="print the models with a name of their own, or every ARCH/PRETRAINED of open_clip, and exit",
    )
    options = parser.parse_args(argv)
    if options.pairs and options.precision != "auto":
        parser.error("--pairs decides between int8 and float32: leave --precision out")
    return options


def _tower_names(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
    if not names or set(names) - set(TOWERS):
        raise argparse.ArgumentTypeError(f"{value!r}: use text, image or text,image")
    return names
