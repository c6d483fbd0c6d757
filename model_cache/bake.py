"""Bake a CLIP checkpoint into an artifact that the functions serve without torch.

python -m model_cache.bake ViT-B-32/laion400m_e32
python -m model_cache.bake ViT-B-32 --checkpoint finetuned.pt --precision int8
"""

from __future__ import annotations

import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from clip_embeddings.paths import MODEL_CACHE
from model_cache.baking import listing
from model_cache.baking.arguments import parse_arguments
from model_cache.baking.errors import BakeError
from model_cache.baking.pipeline import bake


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 baked, 2 not possible, 130 interrupted."""
    options = parse_arguments(argv)
    # Hides the libraries' warnings for programmers, such as "No pretrained weights loaded".
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _run(options)
    except BakeError as error:
        return _fail(str(error))
    except OSError as error:
        path = error.filename or options.out or MODEL_CACHE
        return _fail(f"{error.strerror or error}: {path}.")
    except ModuleNotFoundError as error:
        return _fail(
            f"Python cannot import {error.name}: "
            "`pip install -r model_cache/requirements.txt` installs what baking needs."
        )
    except KeyboardInterrupt:
        print("bake: interrupted, nothing was written.", file=sys.stderr)
        return 130
    return 0


def _run(options: Namespace) -> None:
    if options.list == "catalogue":
        listing.print_catalogue()
    elif options.list == "all":
        listing.print_open_clip_models()
    else:
        bake(
            options.name,
            checkpoint=options.checkpoint,
            config=options.config,
            precision=options.precision,
            towers=options.towers,
            quick_gelu=options.quick_gelu,
            out=options.out,
            pairs=options.pairs,
            max_recall_loss=options.max_recall_loss,
        )


def _fail(message: str) -> int:
    print(f"bake: {message}", file=sys.stderr)
    return 2


class _Interrupted(KeyboardInterrupt):
    """A type of its own: once a plain KeyboardInterrupt has passed an exec(), Python exits by the signal."""


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise _Interrupted


if __name__ == "__main__":
    sys.exit(main())
