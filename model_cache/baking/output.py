"""The folder of a baked model: its manifest, and replacing an older model at once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from clip_embeddings.engine.manifest import (
    BYTE_PAIR_TOKENIZER,
    LIBRARY_TOKENIZER,
    Manifest,
    Tower,
    to_json,
)
from model_cache.baking.errors import BakeError

if TYPE_CHECKING:
    from model_cache.baking.checkpoints import Checkpoint

MANIFEST = "manifest.json"
# Every file that a bake may write.
OUTPUTS = {
    "text.onnx",
    "text.data",
    "image.onnx",
    "image.data",
    BYTE_PAIR_TOKENIZER,
    LIBRARY_TOKENIZER,
    MANIFEST,
}
# Packages whose versions the manifest records.
TOOLS = ("torch", "open_clip_torch", "onnx", "onnxruntime", "tokenizers", "pillow")


def write_manifest(
    folder: Path, name: str, aliases: Sequence[str], checkpoint: Checkpoint, towers: Mapping[str, Tower]
) -> None:
    """Write manifest.json of the model `name` into `folder`."""
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
        aliases=tuple(aliases),
        logit_scale=checkpoint.logit_scale,
        logit_bias=checkpoint.logit_bias,
    )
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder whose files move to `target` if the block succeeds; it is removed in any case.

    The old manifest is deleted first and the new one moves last: if this is interrupted, `target` holds the
    old model, the new one, or one without a manifest, which does not load. Other files in `target` stay.

    Raises:
        BakeError: `target` is a file.
        OSError: a folder or file cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise BakeError(f"{target} is a file: choose another --out.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        target.mkdir(exist_ok=True)
        (target / MANIFEST).unlink(missing_ok=True)
        for name in OUTPUTS - {path.name for path in temporary.iterdir()}:
            (target / name).unlink(missing_ok=True)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(target / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
