"""Where a layer's bias is, and graphs with something added to the biases of some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from calibration.graph import Graph
from calibration.names import FreshNames


@dataclass(frozen=True)
class BiasSite:
    """Where something is added to each channel: the constant at an input of a node, on the tensor that it makes."""

    node: str
    position: int
    tensor: str
    axis: int
    """Of the channels of the tensor."""


def bias_site(graph: Graph, node: NodeProto) -> BiasSite | None:
    """Of what a convolution or product makes; None where it has no place for a bias, or one that is no constant."""
    if node.op_type == "Conv":
        return BiasSite(node.name, 2, node.output[0], 1) if _is_constant_or_none(graph, node) else None
    if node.op_type == "Gemm":
        return BiasSite(node.name, 2, node.output[0], 1) if _has_free_bias(graph, node) else None
    reader = graph.sole_reader(node.output[0])
    if reader is None or reader.op_type != "Add":
        return None
    position = 1 if reader.input[0] == node.output[0] else 0
    constant = reader.input[position]
    if constant not in graph.initializers or len(graph.shape(constant) or ()) != 1:
        return None
    return BiasSite(reader.name, position, reader.output[0], -1)


def _has_free_bias(graph: Graph, node: NodeProto) -> bool:
    """Whether a Gemm has no bias, or a constant one of one value a channel."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    return node.input[2] in graph.initializers and len(graph.shape(node.input[2]) or ()) == 1


def _is_constant_or_none(graph: Graph, node: NodeProto) -> bool:
    return len(node.input) < 3 or not node.input[2] or node.input[2] in graph.initializers


def with_biases(model: ModelProto, added: Mapping[BiasSite, NDArray[np.float64]]) -> ModelProto:
    """The model with these values, (channels,), added at each site; what nobody reads any more is left out."""
    result = ModelProto()
    result.CopyFrom(model)
    graph, names = Graph(model), FreshNames(model)
    by_node = {site.node: (site, values) for site, values in added.items()}
    replaced = set()
    for node in result.graph.node:
        if node.name not in by_node:
            continue
        site, values = by_node[node.name]
        before = node.input[site.position] if site.position < len(node.input) else ""
        bias = graph.constant(before).astype(np.float64) if before else 0.0
        tensor = names.like(f"{before or node.output[0]}_corrected")
        result.graph.initializer.append(numpy_helper.from_array((bias + values).astype(np.float32), tensor))
        replaced.add(before)
        if site.position < len(node.input):
            node.input[site.position] = tensor
        else:
            node.input.append(tensor)
    after = Graph(result)
    unread = {name for name in replaced if name not in after.readers} - after.outputs - after.captured
    kept = [tensor for tensor in result.graph.initializer if tensor.name not in unread]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result
