"""The stages of baking one tower: export, compare with PyTorch, quantize, choose the precision."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from clip_embeddings.engine.manifest import Tower
from model_cache.baking.checkpoints import Checkpoint
from model_cache.baking.errors import BakeError
from model_cache.baking.exported_tower import export_tower
from model_cache.baking.onnx_export import optimize
from model_cache.baking.parity import Parity, choose_precision
from model_cache.baking.progress import step
from model_cache.baking.quantize import quantize


def bake_tower(
    name: str, checkpoint: Checkpoint, precision: str, folder: Path
) -> tuple[Tower, dict[str, Parity]]:
    """Export the tower `name` ("text" or "image") and write its files into `folder`.

    Returns its manifest entry and the figures of each precision that was built.

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
    chosen, reason = choose_precision(precision, figures)
    print(f"  {name}: {chosen}, {reason}")
    for path in folders[chosen].iterdir():
        path.replace(folder / path.name)
    for path in folders.values():
        shutil.rmtree(path)
    recorded = {key: asdict(value) for key, value in figures.items()} | {"reason": reason}
    return exported.finish(chosen, recorded), figures
