"""Quantizes a float32 graph to 8 bits: int8 weights, and activations with one scale per row at run time.

ONNX Runtime's own dynamic quantization was measured for comparison and has two faults. It takes one
activation scale for a whole batch, so that a vector depends on the other items of the request. It uses all
8 bits of a weight, and the products saturate on CPUs without VNNI: vectors that are close to float32 on one
machine are not on another.

For a short text the call of a small operator costs more than its work, and in a large batch every pass over
an activation counts. So an activation becomes 8 bits in four or five operators: two or three passes over it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from model_cache.baking.patches import multiply_patches

# Smaller tables (positions, classes) and smaller weights stay float32: they save too little for the loss.
MIN_TABLE_ROWS = 1024
MIN_WEIGHTS = 4096
# AVX2 adds two products of an 8-bit activation and a weight in 16 bits: 2 * 255 * 63 < 2**15.
LARGEST_WEIGHT = 63
# The slope of quick-GELU, x * sigmoid(1.702 * x).
QUICK_GELU_SLOPE = 1.702


@dataclass(frozen=True)
class Spread:
    """How the values of an activation's row are spread over the 256 values of a uint8.

    `zero_point` stands for 0, 255 for the row's largest value or, if `symmetric`, magnitude. `least_scale` is
    the lower bound of the row's scale, the difference between two neighboring values.
    """

    name: str
    zero_point: int
    least_scale: float
    symmetric: bool


# The least scale only prevents the division by zero in a row of zeros.
ANY = Spread("q", 128, 1e-10, symmetric=True)
# GELU, its tanh form and quick-GELU have no value below -0.171: a quarter of the uint8 suffices for negative
# values, and the positive ones are represented in finer steps.
GELU = Spread("q.gelu", 64, 0.171 / 64, symmetric=False)


def quantize(source: Path, target: Path) -> None:
    """Write `source` with the weights of its matrix products and its token table in 8 bits.

    A weight has one scale per output channel, an activation one per row (token or patch), a token table one
    per token. The last product, the projection, stays float32: it is small, and its error would go into the
    vector undiminished.
    """
    model = onnx.load(source)
    graph = model.graph
    multiply_patches(graph)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[NodeProto] = []
    new_weights: dict[str, np.ndarray] = {"q.axis": np.array([-1]), "q.one": np.array(1, np.float32)}
    for spread in (ANY, GELU):
        new_weights[f"{spread.name}.zero"] = np.array(spread.zero_point, np.uint8)
        new_weights[f"{spread.name}.step"] = np.array(1 / (255 - spread.zero_point), np.float32)
        new_weights[f"{spread.name}.least"] = np.array(spread.least_scale, np.float32)
    spreads: dict[str, Spread] = {}
    zero_points: dict[Hashable, str] = {}
    leading = _leading_dimensions(graph)
    for node in graph.node:
        if _is_table_lookup(node, weights):
            nodes += _quantized_lookup(node, weights[node.input[0]], new_weights)
        elif _is_product(node, weights) and node.output[0] != graph.output[0].name:
            x, weight = node.input[0], weights[node.input[1]]
            weight = weight.T if _attributes(node).get("transB") else weight
            if x not in spreads:
                spreads[x] = GELU if _is_gelu(x, producers, weights) else ANY
                key = spreads[x], leading.get(x, x)
                nodes += _quantize_activation(x, len(weight), spreads[x], key, zero_points)
            nodes += _quantized_product(node, weight, spreads[x], new_weights)
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


def _is_gelu(x: str, producers: Mapping[str, NodeProto], weights: Mapping[str, np.ndarray]) -> bool:
    """Whether `x` is the output of GELU, or of the three nodes of quick-GELU."""
    node = producers.get(x)
    if node is None or node.op_type != "Mul":
        return node is not None and node.op_type == "Gelu"
    for value, name in (node.input, reversed(node.input)):
        sigmoid = producers.get(name)
        scaled = producers.get(sigmoid.input[0]) if sigmoid and sigmoid.op_type == "Sigmoid" else None
        if scaled and scaled.op_type == "Mul" and value in scaled.input:
            slopes = [weights[factor] for factor in scaled.input if factor in weights]
            return any(np.allclose(slope, QUICK_GELU_SLOPE) for slope in slopes)
    return False


def _leading_dimensions(graph: GraphProto) -> dict[str, tuple[str | int, ...]]:
    """All dimensions but the last of the tensors of which they are known. Dynamic ones are names."""
    dimensions: dict[str, tuple[str | int, ...]] = {}
    for value in (*graph.input, *graph.value_info):
        sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim[:-1]]
        if sizes and all(sizes):
            dimensions[value.name] = tuple(sizes)
    return dimensions


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


def _quantize_activation(
    x: str, width: int, spread: Spread, key: Hashable, zero_points: dict[Hashable, str]
) -> Iterator[NodeProto]:
    """Nodes that compute `{x}.q`, the tensor `x` of rows of `width` in 8 bits, and `{x}.scale`, one per row.

    `zero_points` maps the keys of activations, equal where all dimensions but the last and the spread are, to
    tensors of zero points; the operator wants one per scale.
    """
    largest = x
    if spread.symmetric:
        largest = f"{x}.abs"
        yield helper.make_node("Abs", [x], [largest])
    yield helper.make_node("ReduceMax", [largest, "q.axis"], [f"{x}.max"], keepdims=1)
    yield helper.make_node("Mul", [f"{x}.max", f"{spread.name}.step"], [f"{x}.exact"])
    yield helper.make_node("Max", [f"{x}.exact", f"{spread.name}.least"], [f"{x}.scale"])
    if key not in zero_points:
        zero_points[key] = f"{x}.zeros"
        yield helper.make_node("Shape", [f"{x}.scale"], [f"{x}.count"])
        yield helper.make_node("Expand", [f"{spread.name}.zero", f"{x}.count"], [f"{x}.zeros"])
    # A block as wide as the row: one scale per row, whatever the number of dimensions.
    inputs = [x, f"{x}.scale", zero_points[key]]
    yield helper.make_node("QuantizeLinear", inputs, [f"{x}.q"], axis=-1, block_size=width)


def _quantized_product(
    node: NodeProto, weight: np.ndarray, spread: Spread, new_weights: dict[str, np.ndarray]
) -> Iterator[NodeProto]:
    """Nodes that multiply in integers, apply the scales of rows and channels, and add the bias of a Gemm."""
    x, name, output = node.input[0], node.input[1], node.output[0]
    scales = np.maximum(np.abs(weight).max(axis=0) / LARGEST_WEIGHT, 1e-12).astype(np.float32)
    new_weights[f"{name}.int8"] = np.rint(weight / scales).astype(np.int8)
    new_weights[f"{name}.scale"] = scales
    bias = node.input[2] if len(node.input) > 2 else ""
    scaled = f"{output}.scaled" if bias else output
    yield helper.make_node(
        "MatMulIntegerToFloat",
        [f"{x}.q", f"{name}.int8", "q.one", f"{name}.scale", f"{spread.name}.zero"],
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
