"""What scales and shifts of channels do to the weights of the layers on both sides of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from calibration.graph import Graph, attribute
from calibration.names import FreshNames

BALANCED = 0.5
"""The power of a channel's reach over its weights': as much is left to the activation as to the weights."""
_LARGEST = 64.0
"""A channel is scaled by this much at most, either way: a dead one is no reason to blow up its weights."""


def is_own_constant(graph: Graph, name: str) -> bool:
    """Whether changing it changes no other node."""
    return name in graph.initializers and len(graph.readers[name]) == 1 and name not in graph.outputs


def takes_scales(graph: Graph, node: NodeProto, axis: int) -> bool:
    """Whether a node multiplies the channels at this axis of its first input with a weight of its own."""
    if len(node.input) < 2 or not is_own_constant(graph, node.input[1]):
        return False
    if node.op_type == "Conv":
        return axis == 1
    if node.op_type == "Gemm":
        return axis == -1 and not attribute(node, "transA", 0)
    return node.op_type == "MatMul" and axis == -1 and len(graph.shape(node.input[1]) or ()) == 2


def scales_of(amax: NDArray[np.float64], reach: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """(channels,): s_i = (amax_i / reach_i) ** power over their geometric mean; 1 for a channel that is never used."""
    used = (amax > 0) & (reach > 0)
    if not used.any():
        return np.ones_like(amax)
    scales = np.where(used, (amax / np.where(used, reach, 1.0)) ** power, 0.0)
    middle = math.exp(float(np.log(scales[used]).mean()))
    return np.where(used, np.clip(scales / middle, 1 / _LARGEST, _LARGEST), 1.0)


def with_own_vectors(model: ModelProto) -> ModelProto:
    """The same graph in which no two nodes share a constant of one dimension.

    Exporters store equal ones once: the unit factors of all LayerNormalizations, say.
    """
    graph, names = Graph(model), FreshNames(model)
    shared = {
        name
        for name, tensor in graph.initializers.items()
        if len(tensor.dims) == 1 and graph.is_float(name) and len(graph.readers.get(name, ())) > 1
    } - graph.outputs
    if not shared:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    first: set[str] = set()
    for node in result.graph.node:
        for position, name in enumerate(node.input):
            if name in shared and name in first:
                node.input[position] = names.like(name)
                copy = result.graph.initializer.add()
                copy.CopyFrom(graph.initializers[name])
                copy.name = node.input[position]
            first.add(name)
    return result


@final
class ChannelWeights:
    """The constants of a graph, while they are changed in float64; `store` puts them back."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph = Graph(model)
        self._nodes = {node.name: node for node in model.graph.node}
        self._values: dict[str, NDArray[np.float64]] = {}

    def reach(self, readers: Sequence[str]) -> NDArray[np.float64]:
        """(channels,): the largest weight that each channel meets, beside the largest of its output channel."""
        return np.asarray(np.max([_reach(self._nodes[name], self.of(name, 1)) for name in readers], axis=0), np.float64)

    def scale_outputs(self, node: str, scales: NDArray[np.float64]) -> None:
        """Divides each channel of what the node makes: all its constants are of its output channels, first axis."""
        for position, name in enumerate(self._nodes[node].input):
            if position and name:
                values = self.of(node, position)
                values /= scales.reshape(-1, *[1] * (values.ndim - 1))

    def scale_inputs(self, node: str, scales: NDArray[np.float64]) -> None:
        """Multiplies what the node multiplies each channel with."""
        values = self.of(node, 1)
        values *= _shaped(self._nodes[node], values, scales)

    def answer_to(self, node: str, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
        """(output channels,): what the node makes of a constant in each input channel, without padding and bias."""
        weight = self.of(node, 1)
        total = weight * _shaped(self._nodes[node], weight, offsets)
        columns = self._nodes[node].op_type == "MatMul" or (
            self._nodes[node].op_type == "Gemm" and not attribute(self._nodes[node], "transB", 0)
        )
        return np.asarray(total.sum(axis=0 if columns else tuple(range(1, total.ndim))), np.float64)

    def of(self, node: str, position: int) -> NDArray[np.float64]:
        """The constant at an input of a node, to be changed in place."""
        name = self._nodes[node].input[position]
        if name not in self._values:
            self._values[name] = self._graph.constant(name).astype(np.float64)
        return self._values[name]

    def store(self) -> None:
        """Writes what was changed into the model."""
        for tensor in self._model.graph.initializer:
            if tensor.name in self._values:
                tensor.CopyFrom(numpy_helper.from_array(self._values[tensor.name].astype(np.float32), tensor.name))


def _by_input_channel(node: NodeProto, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitudes of a second layer's weight as (output channels, channels of its group)."""
    if node.op_type == "Conv":
        return np.asarray(np.abs(weight).reshape(weight.shape[0], weight.shape[1], -1).max(axis=2), np.float64)
    return np.abs(weight) if node.op_type == "Gemm" and attribute(node, "transB", 0) else np.abs(weight).T


def _reach(node: NodeProto, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    table = _by_input_channel(node, weight)
    rows = table.max(axis=1, keepdims=True)
    table = table / np.where(rows > 0, rows, 1.0)
    groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return np.asarray(table.reshape(groups, -1, table.shape[1]).max(axis=1).reshape(-1), np.float64)


def _shaped(node: NodeProto, weight: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scales of the input channels, in the shape that multiplies the weight."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        rows = np.repeat(scales.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
    return scales[None, :] if node.op_type == "Gemm" and attribute(node, "transB", 0) else scales[:, None]
