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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.graph import Graph, attribute
from calibration.repairs.channel_scales import is_depthwise, with_channel_scales
from calibration.repairs.channel_weights import (
    BALANCED,
    ChannelWeights,
    is_own_constant,
    scales_of,
    takes_scales,
    with_own_vectors,
)
from calibration.segments import channel_extremes
from calibration.statistics.collect import Batch

_ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "PRelu"})
_OVER_SPACE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


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
    model = with_own_vectors(model)
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
            and all(edge.position == 0 and takes_scales(graph, edge.node, axis) for edge in readers)
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
    constants = all(is_own_constant(graph, name) for name in node.input[1:] if name)
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
    weights = ChannelWeights(result)
    for pair in pairs:
        free = all(is_depthwise(graph, nodes[name]) for name in pair.second)
        scales = scales_of(amax[pair], weights.reach(pair.second), 1.0 if free else BALANCED)
        weights.scale_outputs(pair.first, scales)
        for name in pair.second:
            weights.scale_inputs(name, scales)
    weights.store()
    return result


def channel_amax(
    model: ModelProto, pairs: Sequence[Pair], batches: Sequence[Batch], threads: int
) -> dict[Pair, NDArray[np.float64]]:
    """(channels,) of each pair's tensor: the largest magnitude that was seen."""
    found = channel_extremes(model, {pair.tensor: pair.axis for pair in pairs}, batches, threads)
    return {pair: np.maximum(-found[pair.tensor].low, found[pair.tensor].high) for pair in pairs}
