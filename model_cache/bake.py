"""Bake a CLIP checkpoint into an artifact that the functions serve without torch.

python -m model_cache.bake ViT-B-32/laion400m_e32
python -m model_cache.bake ViT-B-32 --checkpoint finetuned.pt --precision int8
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from clip_embeddings.engine.manifest import TOWERS
from model_cache.baking import catalogue
from model_cache.baking.errors import BakeError

if TYPE_CHECKING:
    from clip_embeddings.engine.manifest import Manifest, Tower
    from model_cache.baking.checkpoints import Checkpoint
    from model_cache.baking.parity import Parity

HERE = Path(__file__).resolve().parent
DEFAULT = "ViT-B-32/laion400m_e32"
MANIFEST = "manifest.json"
OUTPUTS = {"text.onnx", "text.data", "image.onnx", "image.data", "tokenizer.json", MANIFEST}
TOOLS = ("torch", "open_clip_torch", "onnx", "onnxruntime", "tokenizers", "pillow")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 baked, 2 not possible as asked, 130 interrupted."""
    options = _parse(argv)
    # Silences advice that is not for this reader, such as "No pretrained weights loaded".
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if options.list:
            print_known(options.list)
        else:
            bake(
                options.name,
                checkpoint=options.checkpoint,
                config=options.config,
                precision=options.precision,
                towers=options.towers,
                quick_gelu=options.quick_gelu,
                out=options.out,
            )
    except BakeError as error:
        print(f"bake: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or options.out or HERE
        print(f"bake: {error.strerror or error}: {where}.", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"bake: Python cannot import {error.name}: "
            "`pip install -r model_cache/requirements.txt` installs what baking needs.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("bake: interrupted, nothing was written.", file=sys.stderr)
        return 130
    return 0


def bake(
    name: str,
    *,
    checkpoint: Path | None = None,
    config: Path | None = None,
    precision: str = "auto",
    towers: Sequence[str] | None = None,
    quick_gelu: bool | None = None,
    out: Path | None = None,
) -> Path:
    """Bake `name` into `out` (default: a folder beside this file) and return that folder.

    Raises:
        BakeError: the model cannot be baked as asked, or the export is not open_clip's model.
    """
    from clip_embeddings.engine.manifest import slug

    for tool in ("torch", "open_clip", "onnx"):
        # Before anything is downloaded for them.
        if find_spec(tool) is None:
            raise ModuleNotFoundError(name=tool)
    entry = catalogue.find(name)
    target = out or HERE / slug(entry.name if entry else name)
    with _step(f"loading {name}"):
        if entry and not config:
            loaded = catalogue.load(entry, checkpoint, quick_gelu)
        else:
            from model_cache.baking import from_open_clip

            loaded = from_open_clip.load(name, checkpoint, config, quick_gelu)
    if towers is None:
        towers = [tower for tower in TOWERS if getattr(loaded, tower)]
    with _atomic_folder(target) as folder:
        baked = {tower: _bake_tower(tower, loaded, precision, folder) for tower in towers}
        from model_cache.baking.parity import table

        print(
            table(
                [
                    (tower, tried, figures)
                    for tower, (_, all_) in baked.items()
                    for tried, figures in all_.items()
                ],
                {tower: result.precision for tower, (result, _) in baked.items()},
            )
        )
        towers_baked = {tower: result for tower, (result, _) in baked.items()}
        _write_manifest(folder, target.name, entry.aliases if entry else (), loaded, towers_baked)
    print(f"baked {target}: serve it with MODEL={target.name if target.parent == HERE else target}")
    return target


def _bake_tower(
    tower: str, checkpoint: Checkpoint, precision: str, folder: Path
) -> tuple[Tower, dict[str, Parity]]:
    """Export one tower, compare each precision with PyTorch, keep the one that is wanted."""
    from model_cache.baking import towers as tower_files
    from model_cache.baking.export import optimise
    from model_cache.baking.quantise import quantise

    # ONNX files name the one that holds their weights, so each precision gets a folder of its own.
    work = {precision: folder / f"{tower}-{precision}" for precision in ("raw", "raw8", "fp32", "int8")}
    for path in work.values():
        path.mkdir()
    graphs = {name: path / f"{tower}.onnx" for name, path in work.items()}
    with _step(f"{tower}: exporting"):
        build = tower_files.export(tower, checkpoint, folder, graphs["raw"])
    with _step(f"{tower}: running PyTorch for comparison"):
        reference = build.reference()
    figures: dict[str, Parity] = {}
    with _step(f"{tower}: float32"):
        optimise(graphs["raw"], graphs["fp32"])
        figures["fp32"] = build.compare(reference, graphs["fp32"])
    if not figures["fp32"].passes("fp32"):
        raise BakeError(
            f"The exported {tower} tower is not the model: its lowest cosine to PyTorch is "
            f"{figures['fp32'].min_cosine:.6f}. Nothing was written. Please report this architecture."
        )
    if precision != "fp32":
        with _step(f"{tower}: int8"):
            quantise(graphs["raw"], graphs["raw8"])
            optimise(graphs["raw8"], graphs["int8"])
            figures["int8"] = build.compare(reference, graphs["int8"])
    taken, reason = _choose(precision, figures)
    print(f"  {tower}: {taken}, {reason}")
    for path in work[taken].iterdir():
        path.replace(folder / path.name)
    for path in work.values():
        shutil.rmtree(path)
    finished = build.finish(
        taken, {key: asdict(value) for key, value in figures.items()} | {"reason": reason}
    )
    return finished, figures


def _choose(precision: str, figures: dict[str, Parity]) -> tuple[str, str]:
    if precision == "fp32":
        return "fp32", "as asked"
    int8 = figures["int8"]
    measured = f"cosine to PyTorch is {int8.mean_cosine:.5f} in the mean and {int8.min_cosine:.5f} at least"
    if precision == "int8":
        return "int8", f"as asked; its {measured}" + (
            "" if int8.passes("int8") else ", below what auto accepts"
        )
    if int8.passes("int8"):
        return "int8", f"its {measured}"
    return "fp32", f"because int8 is too coarse here: its {measured}"


def _write_manifest(
    folder: Path, name: str, aliases: tuple[str, ...], checkpoint: Checkpoint, towers: dict[str, Tower]
) -> Manifest:
    from clip_embeddings.engine.manifest import Manifest, to_json

    manifest = Manifest(
        name=name,
        architecture=checkpoint.architecture,
        pretrained=checkpoint.pretrained,
        quick_gelu=checkpoint.quick_gelu,
        space=checkpoint.space,
        dimensions=len(next(iter(towers.values())).canary.vector),
        normalize=checkpoint.normalize,
        towers=towers,
        tools={tool: version(tool) for tool in TOOLS},
        aliases=aliases,
    )
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")
    return manifest


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """A folder whose files move to `target` if the block succeeds, and vanish if it does not.

    The manifest goes first and comes last: whenever this stops, `target` holds the old model, the new
    one, or none that loads. Other files in `target` stay.
    """
    if target.exists() and not target.is_dir():
        raise BakeError(f"{target} is a file: choose another --out.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield work
        target.mkdir(exist_ok=True)
        (target / MANIFEST).unlink(missing_ok=True)
        for name in OUTPUTS - {path.name for path in work.iterdir()}:
            (target / name).unlink(missing_ok=True)
        for path in sorted(work.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(target / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what goes on, and how long it took."""
    terminal = sys.stderr.isatty()
    print(f"  {what} ...", end="" if terminal else "\n", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        # What stopped it gets a line of its own.
        print(end="\n" if terminal else "", file=sys.stderr)
        raise
    print(
        f"{'' if terminal else '  ' + what} {time.perf_counter() - started:.1f} s",
        file=sys.stderr,
        flush=True,
    )


def print_known(which: str) -> None:
    """Print the catalogue or, of `all`, every ARCH/PRETRAINED of open_clip, quick-GELU ones marked."""
    if which == "catalogue":
        print(f"{catalogue.table()}\n\nAny ARCH/PRETRAINED of open_clip bakes too: --list all names them.")
        return
    from model_cache.baking.from_open_clip import needs_quick_gelu
    from model_cache.baking.torch_setup import import_open_clip

    open_clip = import_open_clip()
    lines = []
    for architecture, tag in open_clip.list_pretrained():
        quick = needs_quick_gelu(
            open_clip.get_model_config(architecture), open_clip.get_pretrained_cfg(architecture, tag)
        )
        lines.append(f"{architecture}/{tag}{'  (quick-GELU)' if quick else ''}")
    # In one piece, so that `--list all | head` does not break the pipe half-way.
    print("\n".join(lines))


class _Interrupted(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: once that has passed an exec(), Python ends by the signal."""


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise _Interrupted


def _towers(raw: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in raw.split(",")))
    if not names or set(names) - set(TOWERS):
        raise argparse.ArgumentTypeError(f"{raw!r}: use text, image or text,image")
    return names


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_cache.bake",
        description="Turn an open_clip checkpoint into ONNX towers, a tokenizer and a manifest.",
        epilog="Set HF_ENDPOINT to download from another hub. Exit status: 0 baked, 2 not possible as asked.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default=DEFAULT,
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
        "--towers",
        type=_towers,
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
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
