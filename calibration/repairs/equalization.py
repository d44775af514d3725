"""Cross-layer equalization: channels are scaled between two layers so that one scale fits them all.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, 4.1.
f(s x) = s f(x) for each s > 0 of a Relu, LeakyRelu, PRelu and of poolings, so with s_i > 0 per channel

    W2 f(W1 x + b1) = (W2 diag(s)) f(diag(1/s) W1 x + diag(1/s) b1)

is the same function. The paper balances r1_i = max |W1_i| against r2_i = max |W2_.i|:  s_i = sqrt(r1_i / r2_i). Weights
have a scale per output channel here, which fits any r1; what one scale must fit is the activation between, so its
measured amax stands for r1, as in G. Xiao et al., "SmoothQuant", arXiv 2211.10438, eq. 4 with alpha = 1/2, and a
LayerNormalization may be the first layer. Where the second layers are depthwise, with a weight scale for each channel,
nothing has to be balanced: s_i is amax_i. Relu6 (a Clip), HardSwish, GELU and the like are not scale-equivariant:
what they stand between stays as it is, unless it is read by a depthwise convolution (channel_scales.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from calibration.graph import Graph, attribute
from calibration.repairs.channel_scales import is_depthwise, with_channel_scales
from calibration.segments import SegmentedRun
from calibration.statistics.collect import Batch

_ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "PRelu"})
_OVER_SPACE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_BALANCED = 0.5
"""The power of amax over reach: as much is left to the activation as to the weights."""
_LARGEST = 64.0
"""A channel is scaled by this much at most, either way: a dead one is no reason to blow up its weights."""


@dataclass(frozen=True)
class Pair:
    """Two layers, or one and several that read it, with the tensor between them."""

    first: str
    """The node that makes the channels."""
    tensor: str
    """What the second ones read."""
    axis: int
    """Of its channels, from the end where negative."""
    second: tuple[str, ...]


def pairs_of(model: ModelProto) -> tuple[Pair, ...]:
    """The pairs of a prepared graph, in its order."""
    graph = Graph(model)
    return tuple(_pairs(graph))


def is_equalizable(model: ModelProto) -> bool:
    """Whether `equalized` would change anything."""
    return bool(pairs_of(_with_scales_of_their_own(model)))


def _with_scales_of_their_own(model: ModelProto) -> ModelProto:
    return with_channel_scales(model, {name for pair in pairs_of(model) for name in pair.second})


def _pairs(graph: Graph) -> Iterator[Pair]:
    for node in graph.nodes:
        axis = _scalable_axis(graph, node)
        if axis is None:
            continue
        tensor = _through(graph, node.output[0], _ELEMENTWISE | _OVER_SPACE if axis == 1 else _ELEMENTWISE)
        readers = graph.readers.get(tensor, ())
        if (
            readers
            and tensor not in graph.outputs
            and all(edge.position == 0 and _takes_scales(graph, edge.node, axis) for edge in readers)
        ):
            yield Pair(node.name, tensor, axis, tuple(edge.node.name for edge in readers))


def _through(graph: Graph, tensor: str, equivariant: frozenset[str]) -> str:
    """The tensor behind the equivariant operators that alone read one another."""
    reader = graph.sole_reader(tensor)
    while reader is not None and reader.op_type in equivariant and reader.input[0] == tensor:
        tensor = reader.output[0]
        reader = graph.sole_reader(tensor)
    return tensor


def _scalable_axis(graph: Graph, node: NodeProto) -> int | None:
    """Of the channels that a node's constants can scale."""
    constants = all(_is_own_constant(graph, name) for name in node.input[1:] if name)
    if node.op_type == "Conv" and constants:
        return 1
    if node.op_type == "Mul" and constants:
        return 1 if _is_by_channel(graph, node) else None
    if node.op_type == "LayerNormalization" and constants and attribute(node, "axis", -1) == -1:
        return -1 if len(graph.shape(node.input[1]) or ()) == 1 else None
    return None


def _is_by_channel(graph: Graph, node: NodeProto) -> bool:
    """Whether a Mul has a factor for each channel, (channels, 1, ...), of an activation of one dimension more."""
    shape, factors = graph.shape(node.input[0]) or (), graph.shape(node.input[1]) or ()
    return len(factors) > 1 and len(shape) == len(factors) + 1 and set(factors[1:]) == {1} and shape[1] == factors[0]


def _is_own_constant(graph: Graph, name: str) -> bool:
    """Whether scaling it changes no other node."""
    return name in graph.initializers and len(graph.readers[name]) == 1 and name not in graph.outputs


def _takes_scales(graph: Graph, node: NodeProto, axis: int) -> bool:
    if len(node.input) < 2 or not _is_own_constant(graph, node.input[1]):
        return False
    if node.op_type == "Conv":
        return axis == 1
    if node.op_type == "Gemm":
        return axis == -1 and not attribute(node, "transA", 0)
    return node.op_type == "MatMul" and axis == -1 and len(graph.shape(node.input[1]) or ()) == 2


def equalized(model: ModelProto, batches: Sequence[Batch], threads: int) -> ModelProto:
    """The same function in a graph of the same names, its channels scaled between each of `pairs_of` it.

    Depthwise convolutions that are in none gain a Mul in front.

    The amax of each channel is measured on the batches, which are held: give a few. What is measured of the graph
    before is no longer true of it.
    """
    model = _with_scales_of_their_own(model)
    pairs, graph, nodes = pairs_of(model), Graph(model), {node.name: node for node in model.graph.node}
    amax = channel_amax(model, pairs, batches, threads)
    result = ModelProto()
    result.CopyFrom(model)
    weights = _Weights(result)
    for pair in pairs:
        free = all(is_depthwise(graph, nodes[name]) for name in pair.second)
        weights.scale(pair, scales_of(amax[pair], weights.reach(pair), 1.0 if free else _BALANCED))
    weights.store()
    return result


def scales_of(amax: NDArray[np.float64], reach: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """(channels,): s_i = (amax_i / reach_i) ** power over their geometric mean; 1 for a channel that is never used."""
    used = (amax > 0) & (reach > 0)
    if not used.any():
        return np.ones_like(amax)
    scales = np.where(used, (amax / np.where(used, reach, 1.0)) ** power, 0.0)
    middle = math.exp(float(np.log(scales[used]).mean()))
    return np.where(used, np.clip(scales / middle, 1 / _LARGEST, _LARGEST), 1.0)


def channel_amax(
    model: ModelProto, pairs: Sequence[Pair], batches: Sequence[Batch], threads: int
) -> dict[Pair, NDArray[np.float64]]:
    """(channels,) of each pair's tensor: the largest magnitude that was seen."""
    by_node: dict[str, list[Pair]] = {}
    graph = Graph(model)
    for pair in pairs:
        by_node.setdefault(graph.producer[pair.tensor].name, []).append(pair)
    found: dict[Pair, NDArray[np.float64]] = {}
    run = SegmentedRun(model, list(by_node), batches, threads)
    for node in run.stops():
        for pair in by_node[node.name]:
            found[pair] = np.max([_amax(tensors[pair.tensor], pair.axis) for tensors in run.live], axis=0)
    return found


def _amax(array: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    return np.asarray(np.abs(array).max(axis=others).astype(np.float64), np.float64)


class _Weights:
    """The constants of a graph, while they are scaled in float64."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph = Graph(model)
        self._nodes = {node.name: node for node in model.graph.node}
        self._values: dict[str, NDArray[np.float64]] = {}

    def reach(self, pair: Pair) -> NDArray[np.float64]:
        """(channels,): the largest weight that each channel meets, beside the largest of its output channel."""
        return np.asarray(
            np.max([_reach(self._nodes[name], self._of(name, 1)) for name in pair.second], axis=0), np.float64
        )

    def scale(self, pair: Pair, scales: NDArray[np.float64]) -> None:
        first = self._nodes[pair.first]
        for position in range(1, len(first.input)):
            if first.input[position]:
                values = self._of(pair.first, position)
                values /= scales.reshape(-1, *[1] * (values.ndim - 1))
        for name in pair.second:
            values = self._of(name, 1)
            values *= _shaped(self._nodes[name], values, scales)

    def store(self) -> None:
        for tensor in self._model.graph.initializer:
            if tensor.name in self._values:
                tensor.CopyFrom(numpy_helper.from_array(self._values[tensor.name].astype(np.float32), tensor.name))

    def _of(self, node: str, position: int) -> NDArray[np.float64]:
        name = self._nodes[node].input[position]
        if name not in self._values:
            self._values[name] = self._graph.constant(name).astype(np.float64)
        return self._values[name]


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
