"""The 8-bit graph: close to float32, each row independent of the others, few operators, no saturation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_cache.baking.onnx_export import OPSET, optimize
from model_cache.baking.quantize import LARGEST_WEIGHT, quantize

WIDTH = 64
ACTIVATIONS = {
    "GELU": [helper.make_node("Gelu", ["h"], ["a"])],
    "quick-GELU": [
        helper.make_node("Mul", ["h", "slope"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["gate"]),
        helper.make_node("Mul", ["gate", "h"], ["a"]),
    ],
    # Its outputs are as negative as its inputs.
    "identity": [helper.make_node("Neg", ["h"], ["n"]), helper.make_node("Neg", ["n"], ["a"])],
}


def write(path: Path, nodes: list[NodeProto], weights: dict[str, np.ndarray], shape: list[str | int]) -> Path:
    """Write a graph from `x`, float32 of `shape`, to `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def perceptron(folder: Path, activation: str, bias: float = 0.0) -> Path:
    """A float32 graph of three products, an activation after the first: (n, length, WIDTH) to the same."""
    rng = np.random.default_rng(3)
    shapes = {"in": (WIDTH, 2 * WIDTH), "out": (2 * WIDTH, WIDTH), "last": (WIDTH, WIDTH)}
    weights: dict[str, np.ndarray] = {
        name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()
    }
    weights |= {"bias": np.full(2 * WIDTH, bias, np.float32), "slope": np.array(1.702, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "in"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["h"]),
        *ACTIVATIONS[activation],
        helper.make_node("MatMul", ["a", "out"], ["b"]),
        helper.make_node("MatMul", ["b", "last"], ["y"]),
    ]
    return write(folder / "float.onnx", nodes, weights, ["batch", "length", WIDTH])


def patches(folder: Path, stride: int) -> Path:
    """A float32 graph that begins with a convolution of 8 x 8 pixels: (n, 3, 32, 32) to (n, 16, 32)."""
    rng = np.random.default_rng(4)
    weights: dict[str, np.ndarray] = {
        "kernel": rng.standard_normal((WIDTH, 3, 8, 8)).astype(np.float32) / 14,
        "bias": rng.standard_normal(WIDTH).astype(np.float32),
        "rows": np.array([0, WIDTH, -1]),
        "last": rng.standard_normal((WIDTH, 32)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["grid"], strides=[stride, stride]),
        helper.make_node("Reshape", ["grid", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "last"], ["y"]),
    ]
    return write(folder / "float.onnx", nodes, weights, ["batch", 3, 32, 32])


def quantized(graph: Path) -> Path:
    """`graph` in 8 bits, as bake makes it, in a folder beside it."""
    target = graph.parent / "int8"
    target.mkdir()
    quantize(graph, graph.parent / "raw8.onnx")
    optimize(graph.parent / "raw8.onnx", target / "int8.onnx")
    return target / "int8.onnx"


def run(graph: Path, x: np.ndarray) -> np.ndarray:
    """`y`, computed by the operators that are in the graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def operators(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph).graph.node]


def activations(*shape: int) -> np.ndarray:
    """Rows whose magnitudes differ by a factor of 1,000, each with an outlier."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-1, 2, (*shape[:-1], 1))
    x[..., 7] *= 5
    return x.astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    result: np.ndarray = (a * b).sum(axis=-1) / lengths
    return result


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_result_is_close_to_float32(tmp_path: Path, activation: str) -> None:
    graph, x = perceptron(tmp_path, activation), activations(5, 9, WIDTH)

    assert cosines(run(quantized(graph), x), run(graph, x)).min() > 0.999


@pytest.mark.parametrize("activation", ["GELU", "quick-GELU"])
def test_the_negative_values_of_gelu_are_kept(tmp_path: Path, activation: str) -> None:
    """With this bias, nearly all outputs of the activation are negative and none is above 0.2."""
    graph = perceptron(tmp_path, activation, bias=-0.75)
    x = activations(5, 9, WIDTH)
    x *= 0.3 / np.linalg.norm(x, axis=-1, keepdims=True)

    assert cosines(run(quantized(graph), x), run(graph, x)).min() > 0.999


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_is_independent_of_the_others(tmp_path: Path, activation: str) -> None:
    graph, x = quantized(perceptron(tmp_path, activation)), activations(6, 4, WIDTH)
    neighbors = x * 1e4
    neighbors[2] = x[2]

    alone, together = run(graph, x[2:3]), run(graph, neighbors)

    np.testing.assert_allclose(together[2], alone[0], rtol=0, atol=1e-5 * np.abs(alone).max())


def test_a_row_of_zeros_gives_zeros(tmp_path: Path) -> None:
    graph, x = quantized(perceptron(tmp_path, "GELU")), activations(2, 3, WIDTH)
    x[1, 1] = 0

    y = run(graph, x)

    assert np.isfinite(y).all()
    assert np.abs(y[1, 1]).max() < 1e-6


@pytest.mark.parametrize(("activation", "passes"), [("GELU", 1), ("quick-GELU", 1), ("identity", 2)])
def test_an_activation_takes_at_most_five_operators(tmp_path: Path, activation: str, passes: int) -> None:
    """Besides the two that make the zero points, which activations of the same shape share."""
    names = operators(quantized(perceptron(tmp_path, activation)))

    # Both activations, x and that between the products.
    assert names.count("MatMulIntegerToFloat") == names.count("QuantizeLinear") == 2
    assert names.count("Abs") == passes
    assert names.count("ReduceMax") == names.count("Max") == 2
    assert names.count("Reshape") == names.count("Flatten") == 0
    # For each activation: the step of its scale, and the scale of its product.
    assert names.count("Mul") == 4
    assert names.count("Shape") == names.count("Expand") == 3 - passes


def test_products_cannot_saturate_without_vnni(tmp_path: Path) -> None:
    """Such a CPU adds two products of a uint8 and a weight in a signed 16-bit number."""
    model = onnx.load(quantized(perceptron(tmp_path, "GELU")))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]

    assert np.iinfo(np.int16).max >= 2 * 255 * LARGEST_WEIGHT
    for node in products:
        weight = numpy_helper.to_array(tensors[node.input[1]], str(tmp_path / "int8"))
        assert weight.dtype == np.int8
        assert np.abs(weight.astype(int)).max() == LARGEST_WEIGHT


def test_patches_are_multiplied_in_8_bits(tmp_path: Path) -> None:
    graph, x = patches(tmp_path, stride=8), activations(3, 3, 32, 32)
    int8 = quantized(graph)

    assert "Conv" not in operators(int8)
    assert operators(int8).count("MatMulIntegerToFloat") == 1
    np.testing.assert_allclose(run(int8, x[1:2])[0], run(int8, x)[1], rtol=0, atol=1e-4)
    assert cosines(run(int8, x), run(graph, x)).min() > 0.999


def test_a_convolution_of_overlapping_windows_stays_float32(tmp_path: Path) -> None:
    assert "Conv" in operators(quantized(patches(tmp_path, stride=4)))
