"""An exported tower: how to compare its graphs with PyTorch, and its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clip_embeddings.cpus import usable_cpus
from clip_embeddings.engine import canary
from clip_embeddings.engine.manifest import Canary, ModelFile, Tower, fingerprint, sha256_of
from clip_embeddings.engine.model import ImageTower, TextTower, normalize_rows
from clip_embeddings.engine.scheduler import Scheduler
from clip_embeddings.engine.session import open_graph
from clip_embeddings.engine.tokenizer import load_tokenizer
from model_cache.baking import onnx_export, parity, parity_samples
from model_cache.baking.checkpoints import Checkpoint, TokenizerFile, TorchImageTower, TorchTextTower
from model_cache.baking.errors import BakeError

NO_CANARY = Canary("", ())
# A transformer begins with one convolution or a few; a graph with more than this many is convolutional.
MAX_STEM_CONVOLUTIONS = 8


@dataclass(frozen=True)
class ExportedTower:
    """An exported tower, with all that is needed to compare its graphs with PyTorch and to describe it."""

    folder: Path
    # The manifest entry, still without files, precision, fingerprint, canary and parity.
    tower: Tower
    # The items of the comparison: texts or images.
    items: Sequence[Any]
    # The model's own implementation: items -> torch tensor (n, d).
    encode: Callable[[Sequence[Any]], Any]
    # Opens a graph as the serving engine does: path -> (items -> float32 (n, d)).
    open_graph: Callable[[Path], Callable[[Sequence[Any]], np.ndarray]]
    canary_input: str
    canary_item: Any
    # The text spec or the preprocessing, which determines the vectors together with the files.
    spec: object
    tokenizer: TokenizerFile | None = None

    def reference_vectors(self) -> np.ndarray:
        """PyTorch's vectors of `items`: (n, d) float32, L2-normalized."""
        return parity.reference_vectors(self.encode, self.items)

    def compare(self, reference: np.ndarray, graph: Path) -> parity.Parity:
        """Measure `graph` against PyTorch's vectors."""
        return parity.compare(reference, self.items, lambda: self.open_graph(graph), graph)

    def finish(self, precision: str, figures: Mapping[str, Any]) -> Tower:
        """The complete manifest entry, once the graph is at its final path in `folder`."""
        name = self.tower.name
        graph = self.folder / f"{name}.onnx"
        table = onnx_export.lookup_table(graph)
        files: tuple[ModelFile, ...] = (_model_file(graph), _model_file(self.folder / f"{name}.data", table))
        hashes = [file.sha256 for file in files]
        if self.tokenizer:
            files = (*files, _model_file(self.folder / self.tokenizer.name))
            hashes.append(self.tokenizer.identity)
        vector = normalize_rows(self.open_graph(self.folder / files[0].path)([self.canary_item]))[0]
        return replace(
            self.tower,
            files=files,
            precision=precision,
            fingerprint=fingerprint(precision, self.spec, *hashes),
            canary=Canary(self.canary_input, tuple(round(float(value), 6) for value in vector)),
            parity=figures,
        )


def export_tower(name: str, checkpoint: Checkpoint, folder: Path, graph: Path) -> ExportedTower:
    """Write the float32 graph of a tower to `graph`, and its other files to `folder`.

    `name` is "text" or "image".

    Raises:
        BakeError: the model has no such tower, or one that cannot be exported.
    """
    build_tower = checkpoint.text if name == "text" else checkpoint.image
    if build_tower is None:
        available = "image" if name == "text" else "text"
        raise BakeError(f"{checkpoint.architecture} has no {name} tower; use --towers {available}.")
    torch_tower = build_tower()
    if isinstance(torch_tower, TorchTextTower):
        return _export_text(torch_tower, folder, graph)
    return _export_image(torch_tower, folder, graph)


def _export_text(torch_tower: TorchTextTower, folder: Path, graph: Path) -> ExportedTower:
    spec = torch_tower.spec
    written = torch_tower.write_tokenizer(folder)
    onnx_export.export_text(torch_tower, graph)
    tower = Tower("text", (), "", "", NO_CANARY, text=spec)

    def open_graph(path: Path) -> Callable[[Sequence[str]], np.ndarray]:
        tokenizer = load_tokenizer(folder / written.name)
        text_tower = TextTower(tower, spec, tokenizer, _session(path), Scheduler(1, 0))
        return lambda texts: text_tower.embed(texts).vectors

    return ExportedTower(
        folder=folder,
        tower=tower,
        items=parity_samples.captions(),
        encode=torch_tower.encode,
        open_graph=open_graph,
        canary_input=canary.TEXT,
        canary_item=canary.TEXT,
        spec=spec,
        tokenizer=written,
    )


def _export_image(torch_tower: TorchImageTower, folder: Path, graph: Path) -> ExportedTower:
    spec = torch_tower.preprocess
    onnx_export.export_image(torch_tower, graph)
    convolutional = onnx_export.count_convolutions(graph) > MAX_STEM_CONVOLUTIONS
    tower = Tower("image", (), "", "", NO_CANARY, preprocess=spec, convolutional=convolutional)

    def open_graph(path: Path) -> Callable[[Sequence[Any]], np.ndarray]:
        image_tower = ImageTower(tower, spec, _session(path, convolutional=convolutional), Scheduler(1, 0))
        return lambda images: image_tower.embed([image_tower.pixels(image) for image in images])

    return ExportedTower(
        folder=folder,
        tower=tower,
        items=parity_samples.images(),
        encode=torch_tower.encode,
        open_graph=open_graph,
        canary_input=canary.IMAGE,
        canary_item=canary.canary_image(canary.IMAGE),
        spec=spec,
    )


def _session(graph: Path, *, convolutional: bool = False) -> Any:
    return open_graph(graph, usable_cpus(), convolutional=convolutional)


def _model_file(path: Path, table: tuple[int, int] | None = None) -> ModelFile:
    return ModelFile(path.name, path.stat().st_size, sha256_of(path), table)
