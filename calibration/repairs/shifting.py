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

As c is not zero, a convolution that pads with zeros cannot read x - c. Where the runtime has room for it, a Pad in
front of the Mul puts the zeros there before the shift (TensorRT-RTX: no kernel more, and 5 to 8 % more bytes);
elsewhere a Pad is a kernel of its own, and what such a convolution reads stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from calibration.graph import Graph
from calibration.names import FreshNames
from calibration.repairs.biases import BiasSite, with_biases
from calibration.repairs.channel_weights import BALANCED, ChannelWeights, scales_of, with_own_vectors
from calibration.repairs.shift_sites import Reader, Room, Site, Stream, sites_of
from calibration.segments import ChannelExtremes, channel_extremes
from calibration.statistics.collect import Batch

_TINY = float(np.finfo(np.float32).tiny)
_LEAST_USE = 0.05
"""Of the grid, that nodes are added for."""
_NO_PADS = Room()


@dataclass(frozen=True)
class _Move:
    """(channels,) each: x becomes (x - middle) / scales."""

    middle: NDArray[np.float64]
    scales: NDArray[np.float64]


@dataclass(frozen=True)
class _Inserted:
    """What is put behind a tensor: where its readers padded with zeros a Pad, then a Mul and an Add."""

    site: Site
    move: _Move


def is_shiftable(model: ModelProto, products: Collection[str], room: Room = _NO_PADS) -> bool:
    """Whether `shifted` may change anything."""
    return next(sites_of(Graph(with_own_vectors(model)), frozenset(products), room), None) is not None


def shifted(
    model: ModelProto,
    products: Collection[str],
    batches: Sequence[Batch],
    threads: int,
    room: Room = _NO_PADS,
) -> ModelProto:
    """The same function with the channels of what only `products` read moved; they are nodes of the prepared graph.

    The extremes of each channel are measured on the batches, which are held: give a few. What is measured of the graph
    before is no longer true of it.
    """
    model = with_own_vectors(model)
    sites = list(sites_of(Graph(model), frozenset(products), room))
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
    inserted: dict[str, _Inserted] = field(default_factory=dict)
    """By the tensor."""

    def move(self, site: Site, seen: ChannelExtremes) -> None:
        if site.pads:
            seen = ChannelExtremes(np.minimum(seen.low, 0.0), np.maximum(seen.high, 0.0))
        if site.giver is None and _unused(seen) < _LEAST_USE:
            return
        reach = self.weights.reach([reader.node for reader in site.readers])
        move = _Move(seen.middle, scales_of(seen.half_range, reach, BALANCED))
        self._read(site.readers, move)
        if site.giver is None:
            self.inserted[site.tensor] = _Inserted(site, move)
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


def _with_nodes(model: ModelProto, inserted: Mapping[str, _Inserted]) -> ModelProto:
    """The nodes behind each tensor, for all that read it."""
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    behind = _Behind(Graph(model), FreshNames(model), result)
    padded = {reader.node for each in inserted.values() for reader in each.site.readers if reader.pads}
    renamed: dict[str, str] = {}
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.name in padded:
            kept = [item for item in node.attribute if item.name != "pads"]
            del node.attribute[:]
            node.attribute.extend(kept)
        result.graph.node.append(node)
        for tensor in set(node.output) & inserted.keys():
            renamed[tensor] = behind.put(inserted[tensor])
    return result


@dataclass(frozen=True)
class _Behind:
    """Puts nodes behind tensors of a graph, into one that is being made."""

    graph: Graph
    names: FreshNames
    result: ModelProto

    def put(self, inserted: _Inserted) -> str:
        """The tensor that takes the place of the one it is for."""
        site, move = inserted.site, inserted.move
        source, shape = site.tensor, list(self.graph.shape(site.tensor) or ())
        if site.pads:
            top, left, bottom, right = site.pads
            amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
            around = zip(shape, (0, 0, top + bottom, left + right), strict=True)
            shape = [None if size is None else size + more for size, more in around]
            source = self._node("Pad", source, amounts, f"{site.tensor}_padded", shape)
        for operator, values, suffix in (
            ("Mul", 1 / move.scales, "scaled"),
            ("Add", -move.middle / move.scales, "shifted"),
        ):
            by = values.astype(np.float32).reshape(-1, *[1] * (len(shape) - 1 - site.axis % len(shape)))
            source = self._node(operator, source, by, f"{site.tensor}_{suffix}", shape)
        return source

    def _node(
        self, operator: str, source: str, constant: NDArray[Any], output: str, shape: Sequence[int | None]
    ) -> str:
        by, output = self.names.like(f"{output}_by"), self.names.like(output)
        self.result.graph.initializer.append(numpy_helper.from_array(constant, by))
        name = self.names.like(f"{operator}_{output}")
        self.result.graph.node.append(helper.make_node(operator, [source, by], [output], name=name))
        sizes = [f"{output}_{i}" if size is None else size for i, size in enumerate(shape)]
        self.result.graph.value_info.append(helper.make_tensor_value_info(output, 1, sizes))
        return output
