"""The first layer of a vision transformer as a matrix product.

A convolution whose windows do not overlap multiplies each patch of the image by the same weights. As a matrix
product it can be quantized like the others; as a convolution it is a tenth of an int8 image tower's time.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


def multiply_patches(graph: GraphProto) -> None:
    """Replace the convolution of the pixels, if it is the only one and its windows do not overlap.

    In a convolutional network the first layer stays what it is: it is small there, and the next layer expects
    the layout of a convolution's output.
    """
    nodes = list(graph.node)
    positions = [position for position, node in enumerate(nodes) if node.op_type == "Conv"]
    if len(positions) != 1:
        return
    (position,) = positions
    convolution, pixels = nodes[position], graph.input[0]
    weight = next((tensor for tensor in graph.initializer if tensor.name == convolution.input[1]), None)
    size = [dimension.dim_value for dimension in pixels.type.tensor_type.shape.dim[2:]]
    if convolution.input[0] != pixels.name or weight is None or not _divides(convolution, weight, size):
        return
    product, constants = _product(convolution, numpy_helper.to_array(weight), size)
    del graph.node[:]
    graph.node.extend([*nodes[:position], *product, *nodes[position + 1 :]])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())


def _divides(node: NodeProto, weight: TensorProto, size: list[int]) -> bool:
    """Whether the windows of the convolution divide an image of `size` (height, width) into patches."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    window = list(weight.dims[2:])
    plain = (
        attributes.get("group", 1) == 1
        and not any(attributes.get("pads", ()))
        and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and set(attributes.get("dilations", ())) <= {1}
    )
    whole = all(side > 0 and side % step == 0 for side, step in zip(size, window, strict=True))
    return plain and whole and list(attributes.get("strides", ())) == window


def _product(
    node: NodeProto, weight: np.ndarray, size: list[int]
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes that do what the convolution does, and their constants."""
    name, output = node.input[1], node.output[0]
    channels_out, channels, height, width = weight.shape
    rows, columns = size[0] // height, size[1] // width
    constants = {
        # A 0 keeps the size of the batch.
        f"{name}.grid": np.array([0, channels, rows, height, columns, width]),
        f"{name}.flat": np.array([0, rows * columns, channels * height * width]),
        f"{name}.image": np.array([0, channels_out, rows, columns]),
        f"{name}.matrix": np.ascontiguousarray(weight.reshape(channels_out, -1).T),
    }
    nodes = [
        helper.make_node("Reshape", [node.input[0], f"{name}.grid"], [f"{output}.grid"]),
        helper.make_node("Transpose", [f"{output}.grid"], [f"{output}.sorted"], perm=[0, 2, 4, 1, 3, 5]),
        helper.make_node("Reshape", [f"{output}.sorted", f"{name}.flat"], [f"{output}.patches"]),
        helper.make_node("MatMul", [f"{output}.patches", f"{name}.matrix"], [f"{output}.product"]),
    ]
    product = f"{output}.product"
    if len(node.input) > 2:
        nodes.append(helper.make_node("Add", [product, node.input[2]], [f"{output}.biased"]))
        product = f"{output}.biased"
    nodes += [
        helper.make_node("Transpose", [product], [f"{output}.channels"], perm=[0, 2, 1]),
        helper.make_node("Reshape", [f"{output}.channels", f"{name}.image"], [output]),
    ]
    return nodes, constants
