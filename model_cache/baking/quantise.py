"""A float32 graph in 8 bits: int8 weights, activations quantised row by row as they come.

ONNX Runtime's own dynamic quantization was measured beside this. It takes one activation scale for a whole
batch, so that a vector depends on its neighbours in the request, and full 8-bit weights, whose products
saturate on CPUs without VNNI: what was close to float32 on one machine is not on another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

# Smaller tables (positions, classes) and products are not worth the loss.
TABLE_ROWS = 1024
WEIGHTS = 4096
# Two products of 8-bit by 7-bit values fit the 16 bits in which AVX2 adds them: 2 * 255 * 63 < 2**15.
LARGEST_WEIGHT = 63
# Activations are symmetric around this zero point.
ZERO = 128


def quantise(source: Path, target: Path) -> None:
    """Write `source` with the weights of its matrix products and its token table in 8 bits.

    A weight has one scale per output channel, an activation one per row (token or patch), a token table one
    per token. The last product, the projection, stays float32: it is small, and its error the vector's own.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    added: dict[str, np.ndarray] = {
        "q.axis": np.array([-1]),
        "q.step": np.array(1 / (255 - ZERO), np.float32),
        "q.least": np.array(1e-10, np.float32),
        "q.one": np.array(1, np.float32),
        "q.all": np.array([-1]),
        "q.zero": np.array(ZERO, np.uint8),
    }
    quantised: set[str] = set()
    for node in graph.node:
        if _is_table(node, weights):
            nodes += _lookup(node, weights[node.input[0]], added)
        elif _is_product(node, weights) and node.output[0] != graph.output[0].name:
            if node.input[0] not in quantised:
                quantised.add(node.input[0])
                nodes += _activation(node.input[0])
            nodes += _product(node, weights[node.input[1]], added)
        else:
            nodes.append(node)
    _replace(graph, nodes, added)
    # One message cannot hold more than 2 GiB.
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")


def _is_table(node: NodeProto, weights: dict[str, np.ndarray]) -> bool:
    table = weights.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and len(table) >= TABLE_ROWS


def _is_product(node: NodeProto, weights: dict[str, np.ndarray]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    weight, options = weights[node.input[1]], _options(node)
    plain = not options.get("transA") and options.get("alpha", 1) == 1 and options.get("beta", 1) == 1
    return plain and weight.ndim == 2 and weight.size >= WEIGHTS


def _options(node: NodeProto) -> dict[str, float]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _lookup(node: NodeProto, table: np.ndarray, added: dict[str, np.ndarray]) -> Iterator[NodeProto]:
    """Rows of an int8 table, each by its own scale."""
    (name, ids), (output,) = node.input, node.output
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    added[f"{name}.int8"] = np.rint(table / scales).astype(np.int8)
    added[f"{name}.scale"] = scales
    yield helper.make_node("Gather", [f"{name}.int8", ids], [f"{output}.int8"], axis=0)
    yield helper.make_node("Gather", [f"{name}.scale", ids], [f"{output}.scale"], axis=0)
    yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output])


def _activation(x: str) -> Iterator[NodeProto]:
    """`x` in 8 bits, `{x}.q`, and the scale of each of its rows, `{x}.scale`."""
    yield helper.make_node("Abs", [x], [f"{x}.abs"])
    yield helper.make_node("ReduceMax", [f"{x}.abs", "q.axis"], [f"{x}.max"], keepdims=1)
    yield helper.make_node("Mul", [f"{x}.max", "q.step"], [f"{x}.exact"])
    yield helper.make_node("Max", [f"{x}.exact", "q.least"], [f"{x}.scale"])
    # QuantizeLinear takes one scale per index of one axis, so all axes but the last become one.
    yield helper.make_node("Reshape", [f"{x}.scale", "q.all"], [f"{x}.scales"])
    yield helper.make_node("Shape", [f"{x}.scales"], [f"{x}.count"])
    yield helper.make_node("Expand", ["q.zero", f"{x}.count"], [f"{x}.zeros"])
    yield helper.make_node("Shape", [x], [f"{x}.shape"])
    yield helper.make_node("Flatten", [x], [f"{x}.rows"], axis=-1)
    inputs = [f"{x}.rows", f"{x}.scales", f"{x}.zeros"]
    yield helper.make_node("QuantizeLinear", inputs, [f"{x}.flat"], axis=0)
    yield helper.make_node("Reshape", [f"{x}.flat", f"{x}.shape"], [f"{x}.q"])


def _product(node: NodeProto, weight: np.ndarray, added: dict[str, np.ndarray]) -> Iterator[NodeProto]:
    """The product in integers, scaled back by row and by channel, plus the bias of a Gemm."""
    x, name, output = node.input[0], node.input[1], node.output[0]
    weight = weight.T if _options(node).get("transB") else weight
    scales = np.maximum(np.abs(weight).max(axis=0) / LARGEST_WEIGHT, 1e-12).astype(np.float32)
    added[f"{name}.int8"] = np.rint(weight / scales).astype(np.int8)
    added[f"{name}.scale"] = scales
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


def _replace(graph: onnx.GraphProto, nodes: list[NodeProto], added: dict[str, np.ndarray]) -> None:
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(array, name) for name, array in added.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
