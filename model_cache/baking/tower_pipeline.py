"""The stages of baking one tower: export, compare with PyTorch, quantize, choose the precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_embeddings.engine.manifest import Tower
from model_cache.baking.checkpoints import Checkpoint
from model_cache.baking.errors import BakeError
from model_cache.baking.exported_tower import ExportedTower, export_tower
from model_cache.baking.onnx_export import optimize
from model_cache.baking.parity import Parity
from model_cache.baking.progress import step
from model_cache.baking.quantize import quantize


@dataclass(frozen=True)
class BuiltTower:
    """A tower in each precision that was built, before one of them is chosen."""

    name: str
    exported: ExportedTower
    # By precision, "fp32" and "int8".
    graphs: Mapping[str, Path]
    figures: Mapping[str, Parity]

    def open_graphs(self) -> dict[str, Callable[[Sequence[Any]], np.ndarray]]:
        """By precision, the graph as the serving engine runs it: texts or images -> float32 (n, d)."""
        return {precision: self.exported.open_graph(self.graphs[precision]) for precision in self.figures}


def build_tower(name: str, checkpoint: Checkpoint, precision: str, folder: Path) -> BuiltTower:
    """Export the tower `name` ("text" or "image") into folders inside `folder`, in float32 and, unless
    `precision` is "fp32", in int8.

    Raises:
        BakeError: the model has no such tower, or its export differs from the model.
    """
    # An ONNX file names the file with its weights, so that each graph needs a folder of its own.
    folders = {stage: folder / f"{name}-{stage}" for stage in ("raw", "raw8", "fp32", "int8")}
    for path in folders.values():
        path.mkdir()
    graphs = {stage: path / f"{name}.onnx" for stage, path in folders.items()}
    with step(f"{name}: exporting"):
        exported = export_tower(name, checkpoint, folder, graphs["raw"])
    with step(f"{name}: running PyTorch for comparison"):
        reference = exported.reference_vectors()
    figures: dict[str, Parity] = {}
    with step(f"{name}: float32"):
        optimize(graphs["raw"], graphs["fp32"])
        figures["fp32"] = exported.compare(reference, graphs["fp32"])
    if not figures["fp32"].passes("fp32"):
        raise BakeError(
            f"The exported {name} tower is not the model: its lowest cosine to PyTorch is "
            f"{figures['fp32'].min_cosine:.6f}. Nothing was written. Please report this architecture."
        )
    if precision != "fp32":
        with step(f"{name}: int8"):
            quantize(graphs["raw"], graphs["raw8"])
            optimize(graphs["raw8"], graphs["int8"])
            figures["int8"] = exported.compare(reference, graphs["int8"])
    for stage in ("raw", "raw8"):
        shutil.rmtree(folders[stage])
    return BuiltTower(name, exported, {stage: graphs[stage] for stage in ("fp32", "int8")}, figures)


def finish_tower(built: BuiltTower, precision: str, reason: str) -> Tower:
    """Keep the graph of `precision`, remove the other one; returns the manifest entry."""
    print(f"  {built.name}: {precision}, {reason}")
    folder = built.exported.folder
    for path in built.graphs[precision].parent.iterdir():
        path.replace(folder / path.name)
    for graph in built.graphs.values():
        shutil.rmtree(graph.parent)
    recorded = {key: asdict(value) for key, value in built.figures.items()} | {"reason": reason}
    return built.exported.finish(precision, recorded)
