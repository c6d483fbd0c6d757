"""From a torch module to ONNX graphs: plain and optimised, the weights in a file beside each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from model_cache.baking.checkpoints import ImageSource, TextSource
from model_cache.baking.errors import BakeError, root_cause

# The first that knows Gelu as one operator.
OPSET = 20


def export_text(source: TextSource, path: Path) -> None:
    """Write the text tower: int64 ids (n, length) -> float32 projections (n, d)."""
    shape = {0: torch.export.Dim("batch")}
    if source.spec.trim:
        shape[1] = torch.export.Dim("length", min=2, max=source.spec.context_length)
    _export(source.module, source.sample, {"ids": shape}, path)


def export_image(source: ImageSource, path: Path) -> None:
    """Write the image tower: float32 pixels (n, 3, h, w) -> float32 projections (n, d)."""
    sample = torch.zeros(2, 3, *source.preprocess.size)
    _export(source.module, sample, {"pixels": {0: torch.export.Dim("batch")}}, path)


def convolutions(graph: Path) -> int:
    """How many of the graph's operators are convolutions."""
    return sum(node.op_type == "Conv" for node in onnx.load(graph, load_external_data=False).graph.node)


def optimise(source: Path, target: Path) -> None:
    """Write `source` with ONNX Runtime's fusions applied, as far as they hold on every x86-64 CPU.

    The weights go to a `.data` file beside `target`: ONNX Runtime maps such a file where it would parse and
    copy the weights of a graph that holds them, and a graph cannot hold more than 2 GiB.
    """
    options = ort.SessionOptions()
    # The next level, ALL, lays tensors out for this machine's CPU.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    external = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{external}_file_name", target.with_suffix(".data").name)
    options.add_session_config_entry(f"{external}_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BakeError(
            f"ONNX Runtime cannot write {target}: {root_cause(error)}. Is there room on the disk?"
        ) from error


def _export(module: nn.Module, sample: Tensor, shapes: dict[str, Any], path: Path) -> None:
    (name,) = shapes
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                (sample,),
                dynamo=True,
                dynamic_shapes=(shapes[name],),
                input_names=[name],
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
