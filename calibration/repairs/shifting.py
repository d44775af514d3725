"""Channels shifted to the middle of a symmetric grid, and scaled, before a product reads them.

X. Wei et al., "Outlier Suppression+: Accurate Quantization of Large Language Models by Equivalent and Effective
Shifting and Scaling", arXiv 2304.09145, 4.1: with c_i = (max x_i + min x_i) / 2 and s_i > 0 for each channel i

    W x + b = (W diag(s)) ((x - c) / s) + (b + W c)

TensorRT takes no zero-point: of what a SiLU, a HardSwish or a GELU gives, nearly half of the grid is never used, and of
x - c all of it is. The paper shifts what a LayerNormalization gives, in its bias. Here a convolution may give it too,
the convolutions of a chain of residual adds together, and behind an activation a Mul and an Add do, which TensorRT-RTX
1.7 computes in the kernel that requantizes (a MobileNetV3 and an EfficientNet, built and read: as many kernels, and as
many bytes, with them as without). Behind a Relu they do so there too (a ResNet-50), but not in a runtime whose
convolutions compute the Relu and the 8 bits themselves.

The weights' rounding errors meet the mean of x - c, which is further from zero than that of x: correct the biases, or
round the weights with it in view (bias_correction.py, rounding.py); without either a shift may lose.

As c is not zero, a convolution that pads with zeros cannot read it. With a Pad in front of the Mul it could (0.6 dB of
either network, and 5 to 8 % more bytes); elsewhere a Pad is a kernel of its own. Such ones stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from calibration.graph import Graph
from calibration.names import FreshNames
from calibration.repairs.biases import BiasSite, with_biases
from calibration.repairs.channel_weights import BALANCED, ChannelWeights, scales_of, with_own_vectors
from calibration.repairs.shift_sites import ACTIVATIONS, Reader, Site, Stream, sites_of
from calibration.segments import ChannelExtremes, channel_extremes
from calibration.statistics.collect import Batch

_TINY = float(np.finfo(np.float32).tiny)
_LEAST_USE = 0.05
"""Of the grid, that nodes are added for."""


@dataclass(frozen=True)
class _Move:
    """(channels,) each: x becomes (x - middle) / scales."""

    middle: NDArray[np.float64]
    scales: NDArray[np.float64]


def is_shiftable(model: ModelProto, products: Collection[str], behind: frozenset[str] = ACTIVATIONS) -> bool:
    """Whether `shifted` may change anything."""
    return next(sites_of(Graph(with_own_vectors(model)), frozenset(products), behind), None) is not None


def shifted(
    model: ModelProto,
    products: Collection[str],
    batches: Sequence[Batch],
    threads: int,
    behind: frozenset[str] = ACTIVATIONS,
) -> ModelProto:
    """The same function with the channels of what only `products` read moved; they are nodes of the prepared graph.

    The extremes of each channel are measured on the batches, which are held: give a few. What is measured of the graph
    before is no longer true of it.
    """
    model = with_own_vectors(model)
    sites = list(sites_of(Graph(model), frozenset(products), behind))
    axes = {name: 1 for site in sites if isinstance(site, Stream) for add in site.adds for name in add}
    axes |= {site.tensor: site.axis for site in sites if isinstance(site, Site)}
    seen = channel_extremes(model, axes, batches, threads)
    result = ModelProto()
    result.CopyFrom(model)
    moves = _Moves(ChannelWeights(result))
    for site in sites:
        if isinstance(site, Stream):
            moves.move_stream(site, seen)
        else:
            moves.move(site, seen[site.tensor])
    moves.weights.store()
    return _with_nodes(with_biases(result, moves.offsets), moves.inserted)


@dataclass
class _Moves:
    """What the moves of one tensor after another come to, in the constants of the layers around them."""

    weights: ChannelWeights
    offsets: dict[BiasSite, NDArray[np.float64]] = field(default_factory=dict)
    """What each bias is to have more, in what the weights are by now."""
    inserted: dict[str, tuple[int, _Move]] = field(default_factory=dict)
    """By the tensor: the axis of its channels, and what a Mul and an Add are to do behind it."""

    def move(self, site: Site, seen: ChannelExtremes) -> None:
        if site.giver is None and _unused(seen) < _LEAST_USE:
            return
        reach = self.weights.reach([reader.node for reader in site.readers])
        move = _Move(seen.middle, scales_of(seen.half_range, reach, BALANCED))
        self._read(site.readers, move)
        if site.giver is None:
            self.inserted[site.tensor] = site.axis, move
        else:
            self._give(site.giver, move)

    def move_stream(self, stream: Stream, seen: Mapping[str, ChannelExtremes]) -> None:
        reach = self.weights.reach([reader.node for readers in stream.readers.values() for reader in readers])
        ranges = [seen[name].half_range for name in stream.readers]
        relative = [np.maximum(each / max(each.max(), _TINY), 1e-6) for each in ranges]
        scales = scales_of(np.exp(np.mean(np.log(relative), axis=0)), reach, BALANCED)
        middles = _middles(stream, seen)
        for tensor, readers in stream.readers.items():
            self._read(readers, _Move(middles[tensor], scales))
        for tensor, giver in stream.givers.items():
            self._give(giver, _Move(middles[tensor], scales))

    def _read(self, readers: Sequence[Reader], move: _Move) -> None:
        for reader in readers:
            more = self.weights.answer_to(reader.node, move.middle)
            self.offsets[reader.bias] = self.offsets.get(reader.bias, 0.0) + more
            self.weights.scale_inputs(reader.node, move.scales)

    def _give(self, giver: BiasSite, move: _Move) -> None:
        self.weights.scale_outputs(giver.node, move.scales)
        self.offsets[giver] = (self.offsets.get(giver, 0.0) - move.middle) / move.scales


def _middles(stream: Stream, seen: Mapping[str, ChannelExtremes]) -> dict[str, NDArray[np.float64]]:
    """(channels,) of each tensor of a stream, those of two summands together those of the sum.

    What no product reads takes what the others leave.
    """
    found = {name: seen[name].middle for name in stream.givers if name in stream.readers}
    for left, right, total in stream.adds:
        for one, other in ((left, right), (right, left)):
            if one not in found:
                wanted = seen[total].middle - found.get(other, 0.0)
                found[one] = wanted if other in found else np.zeros_like(wanted)
        found[total] = found[left] + found[right]
    return found


def _unused(seen: ChannelExtremes) -> float:
    """The share of a symmetric grid, of the mean channel, that is used only with the shift."""
    amax = np.maximum(-seen.low, seen.high)
    return float(np.mean(1 - seen.half_range[amax > 0] / amax[amax > 0])) if (amax > 0).any() else 0.0


def _with_nodes(model: ModelProto, inserted: Mapping[str, tuple[int, _Move]]) -> ModelProto:
    """A Mul and an Add behind each tensor, for all that read it."""
    graph, names = Graph(model), FreshNames(model)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    renamed: dict[str, str] = {}
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        result.graph.node.append(node)
        for tensor in set(node.output) & inserted.keys():
            axis, move = inserted[tensor]
            source, shape = tensor, graph.shape(tensor) or ()
            for operator, values in (("Mul", 1 / move.scales), ("Add", -move.middle / move.scales)):
                constant = names.like(f"{tensor}_{operator.lower()}_by")
                array = values.astype(np.float32).reshape(-1, *[1] * (len(shape) - 1 - axis % len(shape)))
                result.graph.initializer.append(numpy_helper.from_array(array, constant))
                output = names.like(f"{tensor}_{'scaled' if operator == 'Mul' else 'shifted'}")
                name = names.like(f"{operator}_{output}")
                result.graph.node.append(helper.make_node(operator, [source, constant], [output], name=name))
                sizes = [f"{output}_{i}" if size is None else size for i, size in enumerate(shape)]
                result.graph.value_info.append(helper.make_tensor_value_info(output, 1, sizes))
                source = output
            renamed[tensor] = source
    return result
