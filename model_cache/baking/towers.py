"""What differs between the two towers while they are baked: files, samples, specification, canary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_embeddings.engine import canary
from clip_embeddings.cpus import usable_cpus
from clip_embeddings.semaphore import FairSemaphore
from clip_embeddings.engine.manifest import Canary, ModelFile, Tower, fingerprint, sha256_of
from clip_embeddings.engine.model import ImageTower, TextTower, normalize_rows
from clip_embeddings.engine.session import open_session
from clip_embeddings.engine.tokenizer import load_tokenizer
from model_cache.baking import export as onnx_export
from model_cache.baking import parity, samples
from model_cache.baking.checkpoints import Checkpoint, ImageSource, TextSource
from model_cache.baking.errors import BakeError

EMPTY = Canary("", ())
# The convolutions that a transformer may begin with: one, or a few.
STEM = 8


@dataclass(frozen=True)
class Build:
    """One tower on its way: `embedder(graph)` opens a graph as the serving engine would."""

    folder: Path
    tower: Tower
    items: Sequence[Any]
    encode: Callable[[Sequence[Any]], Any]
    embedder: Callable[[Path], Callable[[Sequence[Any]], np.ndarray]]
    canary_input: str
    canary_item: Any
    # What decides the vectors beside the graph and the files.
    recipe: object
    extra_files: tuple[str, ...] = ()

    def reference(self) -> np.ndarray:
        """PyTorch's vectors of `items`: (n, d) float32, L2-normalised."""
        return parity.reference(self.encode, self.items)

    def compare(self, reference: np.ndarray, graph: Path) -> parity.Parity:
        """Figures of `graph` against PyTorch's vectors."""
        return parity.compare(reference, self.items, lambda: self.embedder(graph), graph)

    def finish(self, precision: str, figures: Mapping[str, Any]) -> Tower:
        """The manifest's entry, once the graph has its final name."""
        from dataclasses import replace

        name = self.tower.name
        files = tuple(
            _model_file(self.folder / file) for file in (f"{name}.onnx", f"{name}.data", *self.extra_files)
        )
        vector = normalize_rows(self.embedder(self.folder / files[0].path)([self.canary_item]))[0]
        return replace(
            self.tower,
            files=files,
            precision=precision,
            fingerprint=fingerprint(precision, self.recipe, *(file.sha256 for file in files)),
            canary=Canary(self.canary_input, tuple(round(float(value), 6) for value in vector)),
            parity=figures,
        )


def export(tower: str, checkpoint: Checkpoint, folder: Path, raw: Path) -> Build:
    """Write the tower's float32 graph to `raw` and say how to check it and finish it.

    Raises:
        BakeError: the model has no such tower, or one that cannot be exported.
    """
    make = checkpoint.text if tower == "text" else checkpoint.image
    if make is None:
        other = "image" if tower == "text" else "text"
        raise BakeError(f"{checkpoint.architecture} has no {tower} tower; use --towers {other}.")
    source = make()
    return _text(source, folder, raw) if isinstance(source, TextSource) else _image(source, folder, raw)


def _text(source: TextSource, folder: Path, raw: Path) -> Build:
    spec = source.spec
    source.write_tokenizer(folder / "tokenizer.json")
    onnx_export.export_text(source, raw)
    tower = Tower("text", (), "", "", EMPTY, text=spec)

    def embedder(graph: Path) -> Callable[[Sequence[str]], np.ndarray]:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        opened = TextTower(tower, spec, tokenizer, _session(graph), FairSemaphore(1, 0))
        return lambda texts: opened.embed(texts).vectors

    return Build(
        folder=folder,
        tower=tower,
        items=samples.captions(),
        encode=source.encode,
        embedder=embedder,
        canary_input=canary.TEXT,
        canary_item=canary.TEXT,
        recipe=spec,
        extra_files=("tokenizer.json",),
    )


def _image(source: ImageSource, folder: Path, raw: Path) -> Build:
    spec = source.preprocess
    onnx_export.export_image(source, raw)
    convolutional = onnx_export.convolutions(raw) > STEM
    tower = Tower("image", (), "", "", EMPTY, preprocess=spec, convolutional=convolutional)

    def embedder(graph: Path) -> Callable[[Sequence[Any]], np.ndarray]:
        opened = ImageTower(tower, spec, _session(graph, convolutional=convolutional), FairSemaphore(1, 0))
        return lambda images: opened.embed([opened.pixels(image) for image in images])

    return Build(
        folder=folder,
        tower=tower,
        items=samples.images(),
        encode=source.encode,
        embedder=embedder,
        canary_input=canary.IMAGE,
        canary_item=canary.canary_image(canary.IMAGE),
        recipe=spec,
    )


def _session(graph: Path, *, convolutional: bool = False) -> Any:
    return open_session(graph.parent, (_model_file(graph),), usable_cpus(), convolutional=convolutional)


def _model_file(path: Path) -> ModelFile:
    return ModelFile(path.name, path.stat().st_size, sha256_of(path))
