"""A scale for each channel of what a depthwise convolution reads, where no layer before it can take the scale.

Its channels never mix, so each may have a scale of its own: with s_i > 0 the convolution reads x_i / s_i and its
weights are s_i w_i. Behind a Relu the layer before makes x_i / s_i (equalization.py); behind a HardSwish, a
SiLU or an Add a Mul does, which TensorRT-RTX 1.7 computes in the kernel that requantizes (a MobileNetV3, built and
read: as many kernels with it as without).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from calibration.graph import Graph, attribute
from calibration.names import FreshNames


def is_depthwise(graph: Graph, node: NodeProto) -> bool:
    """Whether each channel of a convolution is multiplied with weights of its own."""
    if node.op_type != "Conv" or node.input[1] not in graph.initializers:
        return False
    return attribute(node, "group", 1) > 1 and (graph.shape(node.input[1]) or (0, 0))[1] == 1


def with_channel_scales(model: ModelProto, scaled: Collection[str]) -> ModelProto:
    """The same function, with a Mul by ones in front of each depthwise convolution that is not among `scaled`.

    The ones, (channels, 1, ...), are for `equalized` to divide by its scales.
    """
    graph, names = Graph(model), FreshNames(model)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        if original.name not in scaled and _is_scalable(graph, original):
            ones = np.ones(
                (attribute(node, "group", 1), *[1] * (len(graph.shape(node.input[1]) or ()) - 2)), np.float32
            )
            constant, output = names.like(f"{node.name}_input_scale"), names.like(f"{node.name}_input")
            result.graph.initializer.append(numpy_helper.from_array(ones, constant))
            result.graph.node.append(
                helper.make_node("Mul", [node.input[0], constant], [output], name=names.like(f"Mul_{output}"))
            )
            shape = graph.shape(node.input[0]) or ()
            sizes = [f"{output}_{axis}" if size is None else size for axis, size in enumerate(shape)]
            result.graph.value_info.append(helper.make_tensor_value_info(output, 1, sizes))
            node.input[0] = output
        result.graph.node.append(node)
    return result


def _is_scalable(graph: Graph, node: NodeProto) -> bool:
    """Whether its weight is its own, and what it reads is computed."""
    if not is_depthwise(graph, node) or node.input[0] not in graph.producer:
        return False
    return len(graph.readers[node.input[1]]) == 1 and node.input[1] not in graph.outputs
