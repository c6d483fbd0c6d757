"""The output of `--list`: the models that can be baked."""

from __future__ import annotations

import os
import sys

from model_cache.baking import catalogue


def print_catalogue() -> None:
    """Print the models that have a public name."""
    _print(f"{catalogue.table()}\n\nAny ARCH/PRETRAINED of open_clip bakes too: --list all names them.")


def print_open_clip_models() -> None:
    """Print every ARCH/PRETRAINED of open_clip, and which of them have the quick-GELU activation."""
    from model_cache.baking.loaders.open_clip import needs_quick_gelu
    from model_cache.baking.torch_setup import import_open_clip

    open_clip = import_open_clip()
    lines = []
    for architecture, tag in open_clip.list_pretrained():
        quick_gelu = needs_quick_gelu(
            open_clip.get_model_config(architecture), open_clip.get_pretrained_cfg(architecture, tag)
        )
        lines.append(f"{architecture}/{tag}{'  (quick-GELU)' if quick_gelu else ''}")
    _print("\n".join(lines))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python flushes again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
