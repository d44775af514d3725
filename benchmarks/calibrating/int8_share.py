"""Which share of a graph's multiply-adds takes INT8 operands, read from its Q/DQ pairs."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "MaxPool", "Cast"})
"""Between a DQ and a product they keep the values on the INT8 grid."""
Shapes = dict[str, tuple[int, ...]]


def int8_share(path: Path) -> float:
    """Of Conv, Gemm and MatMul at batch 1; a product counts as INT8 where both operands come from a DQ."""
    model = _at_batch_1(onnx.load(path))
    shapes = _shapes(model)
    producer = {output: node for node in model.graph.node for output in node.output}
    total = in_int8 = 0
    for node in model.graph.node:
        if (amount := multiply_adds(node, shapes)) and node.op_type in ("Conv", "Gemm", "MatMul"):
            total += amount
            if all(_is_dequantized(name, producer) for name in node.input[:2]):
                in_int8 += amount
    return in_int8 / total


def multiply_adds(node: NodeProto, shapes: Shapes) -> int:
    """Of one image; 0 where the operator is none that multiplies matrices."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    out = prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return out * prod(shapes[node.input[1]][1:])  # weight: (out, in / groups, kernel...)
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return out * shapes[node.input[0]][-2 if transposed else -1]


def _at_batch_1(model: ModelProto) -> ModelProto:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:  # inferred anew
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _shapes(model: ModelProto) -> Shapes:
    graph = model.graph
    found: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        # A dimension that stays unknown is the batch, in a reshape.
        found[value.name] = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    return found


def _is_dequantized(tensor: str, producer: dict[str, NodeProto]) -> bool:
    node = producer.get(tensor)
    while node is not None and node.op_type in MOVES:
        node = producer.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
