"""Exports torch modules as ONNX graphs and optimizes graphs. The weights are in a file beside each graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from model_cache.baking.checkpoints import TorchImageTower, TorchTextTower
from model_cache.baking.errors import BakeError, root_cause

# The first operator set that quantizes in blocks, of which a row is one.
OPSET = 21
# ONNX Runtime's fusion of a bias and GELU is up to a third slower than the two operators.
SLOWER_FUSIONS = ["BiasGeluFusion"]


def export_text(tower: TorchTextTower, path: Path) -> None:
    """Write the text tower's graph: int64 ids (n, length) -> float32 projections (n, d)."""
    shape = {0: torch.export.Dim("batch")}
    if tower.spec.trim:
        shape[1] = torch.export.Dim("length", min=2, max=tower.spec.context_length)
    _export(tower.module, tower.example_ids, {"ids": shape}, path)


def export_image(tower: TorchImageTower, path: Path) -> None:
    """Write the image tower's graph: float32 pixels (n, 3, h, w) -> float32 projections (n, d)."""
    example = torch.zeros(2, 3, *tower.preprocess.size)
    _export(tower.module, example, {"pixels": {0: torch.export.Dim("batch")}}, path)


def count_convolutions(graph: Path) -> int:
    """The number of convolution operators in the graph."""
    return sum(node.op_type == "Conv" for node in onnx.load(graph, load_external_data=False).graph.node)


def optimize(source: Path, target: Path) -> None:
    """Apply those of ONNX Runtime's fusions to `source` that are valid on every x86-64 CPU; write `target`.

    The weights go to a `.data` file beside `target`: ONNX Runtime maps such a file into memory, whereas it
    parses and copies weights inside a graph, and a graph cannot hold more than 2 GiB.

    Raises:
        BakeError: the graph cannot be written.
    """
    options = ort.SessionOptions()
    # The next level, ALL, chooses tensor layouts for the CPU of this machine.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    external = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{external}_file_name", target.with_suffix(".data").name)
    options.add_session_config_entry(f"{external}_min_size_in_bytes", "1024")
    try:
        providers = ["CPUExecutionProvider"]
        ort.InferenceSession(str(source), options, providers=providers, disabled_optimizers=SLOWER_FUSIONS)
    except Exception as error:
        raise BakeError(
            f"ONNX Runtime cannot write {target}: {root_cause(error)}. Is there room on the disk?"
        ) from error


def _export(module: nn.Module, example: Tensor, dynamic_shapes: dict[str, Any], path: Path) -> None:
    """Export a module with one input; `dynamic_shapes` maps its name to its dynamic dimensions."""
    (input_name,) = dynamic_shapes
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(dynamic_shapes[input_name],),
                input_names=[input_name],
                output_names=["projection"],
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise BakeError(
                f"PyTorch cannot export this tower: {root_cause(error)}. Please report this architecture."
            ) from error
    assert program is not None
    program.save(path, external_data=True)


def lookup_table(graph: Path) -> tuple[int, int] | None:
    """First byte and length, in the data file, of the largest table of which a run needs a few rows."""
    model = onnx.load(str(graph), load_external_data=False)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    others = {name for node in model.graph.node for name in node.input if node.op_type != "Gather"}
    tables = []
    for tensor in model.graph.initializer:
        if tensor.external_data and tensor.name in looked_up - others:
            place = {entry.key: entry.value for entry in tensor.external_data}
            tables.append((int(place.get("offset", 0)), int(place["length"])))
    return max(tables, key=lambda table: table[1], default=None)
