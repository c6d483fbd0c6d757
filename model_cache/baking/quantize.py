"""Quantizes a float32 graph to 8 bits: int8 weights, and activations with one scale per row at run time.

ONNX Runtime's own dynamic quantization was measured for comparison and has two faults. It takes one
activation scale for a whole batch, so that a vector depends on the other items of the request. It uses all
8 bits of a weight, and the products saturate on CPUs without VNNI: vectors that are close to float32 on one
machine are not on another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

# Smaller tables (positions, classes) and smaller weights stay float32: they save too little for the loss.
MIN_TABLE_ROWS = 1024
MIN_WEIGHTS = 4096
# AVX2 adds two products of an 8-bit activation and a weight in 16 bits: 2 * 255 * 63 < 2**15.
LARGEST_WEIGHT = 63
# Activations are symmetric around this zero point of their uint8 values.
ZERO_POINT = 128


def quantize(source: Path, target: Path) -> None:
    """Write `source` with the weights of its matrix products and its token table in 8 bits.

    A weight has one scale per output channel, an activation one per row (token or patch), a token table one
    per token. The last product, the projection, stays float32: it is small, and its error would go into the
    vector undiminished.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    new_weights: dict[str, np.ndarray] = {
        "q.axis": np.array([-1]),
        "q.step": np.array(1 / (255 - ZERO_POINT), np.float32),
        "q.least": np.array(1e-10, np.float32),
        "q.one": np.array(1, np.float32),
        "q.all": np.array([-1]),
        "q.zero": np.array(ZERO_POINT, np.uint8),
    }
    quantized: set[str] = set()
    for node in graph.node:
        if _is_table_lookup(node, weights):
            nodes += _quantized_lookup(node, weights[node.input[0]], new_weights)
        elif _is_product(node, weights) and node.output[0] != graph.output[0].name:
            if node.input[0] not in quantized:
                quantized.add(node.input[0])
                nodes += _quantize_activation(node.input[0])
            nodes += _quantized_product(node, weights[node.input[1]], new_weights)
        else:
            nodes.append(node)
    _replace_contents(graph, nodes, new_weights)
    # A protobuf message cannot hold more than 2 GiB.
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")


def _is_table_lookup(node: NodeProto, weights: dict[str, np.ndarray]) -> bool:
    table = weights.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and len(table) >= MIN_TABLE_ROWS


def _is_product(node: NodeProto, weights: dict[str, np.ndarray]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    weight, attributes = weights[node.input[1]], _attributes(node)
    scaled = attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1
    transposed = attributes.get("transA")
    return not scaled and not transposed and weight.ndim == 2 and weight.size >= MIN_WEIGHTS


def _attributes(node: NodeProto) -> dict[str, float]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _quantized_lookup(
    node: NodeProto, table: np.ndarray, new_weights: dict[str, np.ndarray]
) -> Iterator[NodeProto]:
    """Nodes that look up rows of an int8 table and multiply each by its own scale."""
    (name, ids), (output,) = node.input, node.output
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    new_weights[f"{name}.int8"] = np.rint(table / scales).astype(np.int8)
    new_weights[f"{name}.scale"] = scales
    yield helper.make_node("Gather", [f"{name}.int8", ids], [f"{output}.int8"], axis=0)
    yield helper.make_node("Gather", [f"{name}.scale", ids], [f"{output}.scale"], axis=0)
    yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output])


def _quantize_activation(x: str) -> Iterator[NodeProto]:
    """Nodes that compute `{x}.q`, the tensor `x` in 8 bits, and `{x}.scale`, the scale of each row."""
    yield helper.make_node("Abs", [x], [f"{x}.abs"])
    yield helper.make_node("ReduceMax", [f"{x}.abs", "q.axis"], [f"{x}.max"], keepdims=1)
    yield helper.make_node("Mul", [f"{x}.max", "q.step"], [f"{x}.exact"])
    yield helper.make_node("Max", [f"{x}.exact", "q.least"], [f"{x}.scale"])
    # QuantizeLinear takes one scale per index of one axis, so that all axes except the last are merged.
    yield helper.make_node("Reshape", [f"{x}.scale", "q.all"], [f"{x}.scales"])
    yield helper.make_node("Shape", [f"{x}.scales"], [f"{x}.count"])
    yield helper.make_node("Expand", ["q.zero", f"{x}.count"], [f"{x}.zeros"])
    yield helper.make_node("Shape", [x], [f"{x}.shape"])
    yield helper.make_node("Flatten", [x], [f"{x}.rows"], axis=-1)
    inputs = [f"{x}.rows", f"{x}.scales", f"{x}.zeros"]
    yield helper.make_node("QuantizeLinear", inputs, [f"{x}.flat"], axis=0)
    yield helper.make_node("Reshape", [f"{x}.flat", f"{x}.shape"], [f"{x}.q"])


def _quantized_product(
    node: NodeProto, weight: np.ndarray, new_weights: dict[str, np.ndarray]
) -> Iterator[NodeProto]:
    """Nodes that multiply in integers, apply the scales of rows and channels, and add the bias of a Gemm."""
    x, name, output = node.input[0], node.input[1], node.output[0]
    weight = weight.T if _attributes(node).get("transB") else weight
    scales = np.maximum(np.abs(weight).max(axis=0) / LARGEST_WEIGHT, 1e-12).astype(np.float32)
    new_weights[f"{name}.int8"] = np.rint(weight / scales).astype(np.int8)
    new_weights[f"{name}.scale"] = scales
    bias = node.input[2] if len(node.input) > 2 else ""
    scaled = f"{output}.scaled" if bias else output
    yield helper.make_node(
        "MatMulIntegerToFloat",
        [f"{x}.q", f"{name}.int8", "q.one", f"{name}.scale", "q.zero"],
        [f"{output}.rows"],
        domain="com.microsoft",
    )
    yield helper.make_node("Mul", [f"{output}.rows", f"{x}.scale"], [scaled])
    if bias:
        yield helper.make_node("Add", [scaled, bias], [output])


def _replace_contents(
    graph: onnx.GraphProto, nodes: list[NodeProto], new_weights: dict[str, np.ndarray]
) -> None:
    """Replace the nodes of the graph, and keep only the weights, old and new, that they use."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(array, name) for name, array in new_weights.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
