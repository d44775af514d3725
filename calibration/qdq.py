"""Ranges and a placement make a Q/DQ graph in standard ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.errors import GraphRefused
from calibration.external_data import check
from calibration.graph import Graph
from calibration.methods.method import Range
from calibration.names import FreshNames
from calibration.placement.families import FAMILY, Family, in_fp8
from calibration.placement.place import Activation, Placement, Weight
from calibration.ranges import Ranges
from calibration.repairs.rounding import Roundings
from calibration.scale import LEAST_SCALE, scale_from_amax, stored_scale
from calibration.weights import WeightMethod, weight_scales

_REQUANTIZED_OPERATORS = ("Conv", "ConvTranspose", "Gemm")
"""Between a DQ and a Q onnxruntime rounds their float weights to 8 bits, one scale for all channels, on its own."""

_INT32_BIAS_LIMIT = 2**30
"""A bias keeps one bit of headroom below the accumulator's range."""


@dataclass(frozen=True)
class Grid:
    """real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int


def quantize(
    model: ModelProto,
    ranges: Ranges,
    placement: Placement,
    number: Literal["int8", "fp8"] = "int8",
    weights: WeightMethod = "max",
    roundings: Roundings = MappingProxyType({}),
) -> ModelProto:
    """The prepared model with Q/DQ pairs where the placement wants them; inputs and outputs stay float32.

    `weights` and `roundings` are for INT8: FP8 takes `max`, since what would saturate costs it no finer step, and the
    nearest numbers. A weight without a rounding of its own goes to the nearest integers.
    Raises GraphRefused where the placement holds nothing, CalibrationError where a tensor has no range.
    """
    if not placement.weights and not placement.activations:
        raise GraphRefused(f"family {placement.family!r} finds nothing to quantize: {_refusals(placement)}")
    family = FAMILY[placement.family]
    if number == "fp8":
        return _Rewriter(model, ranges, placement, in_fp8(family), "max", {}).rewritten()
    return _Rewriter(model, ranges, placement, family, weights, roundings).rewritten()


def activation_grid(measured: Range, family: Family) -> Grid:
    """The scale and zero-point that cover a range: zero is always representable exactly."""
    if family.symmetric_activations:
        return Grid(float(scale_from_amax(measured.amax, family.levels)), 0)
    low, high = min(measured.low, 0.0), max(measured.high, 0.0)
    scale = float(stored_scale((high - low) / 255))
    offset = round(-low / scale)
    return Grid(scale, offset if family.activation_dtype == "uint8" else offset - 128)


def _least_weight_scales(bias: NDArray[np.float32], input_scale: float) -> NDArray[np.float64]:
    """(channels,): from here on each bias fits into INT32, and its scale into float32."""
    bias_scales = np.maximum(np.abs(bias.astype(np.float64)) / _INT32_BIAS_LIMIT, LEAST_SCALE)
    return np.asarray(bias_scales / input_scale, np.float64)


def _refusals(placement: Placement) -> str:
    reasons = [f"{d.node} ({d.operator}): {d.reason}" for d in placement.decisions if d.operator != "Relu"]
    return "; ".join(reasons[:3]) + (" …" if len(reasons) > 3 else "")


class _Rewriter:
    """Builds the quantized copy of one model."""

    def __init__(
        self,
        model: ModelProto,
        ranges: Ranges,
        placement: Placement,
        family: Family,
        weights: WeightMethod,
        roundings: Roundings,
    ) -> None:
        self._model = model
        self._graph = Graph(model)
        self._family = family
        self._weight_method = weights
        self._roundings = roundings
        self._placement = placement
        self._grids = {a.tensor: self._grid(a, ranges) for a in placement.activations}
        self._new_initializers: list[TensorProto] = []
        self._heads: dict[str, list[NodeProto]] = {}  # nodes that follow the one that writes a tensor
        self._leads: dict[str, list[NodeProto]] = {}  # nodes that go before a node
        self._inputs: dict[tuple[str, int], str] = {}  # what a node reads instead
        self._names = FreshNames(model)

    def rewritten(self) -> ModelProto:
        for activation in self._placement.activations:
            self._add_pair(activation)
        for weight in self._placement.weights:
            self._add_weight(weight)
        if self._family.rules == "cpu":
            self._keep_float_weights()
        result = ModelProto()
        result.CopyFrom(self._model)
        del result.graph.node[:]
        result.graph.node.extend(self._nodes())
        self._set_initializers(result)
        del result.graph.value_info[:]
        check(result, full_check=True)
        return result

    def _grid(self, activation: Activation, ranges: Ranges) -> Grid:
        measured, margin = ranges.of(activation.range_from), activation.margin
        return activation_grid(Range(margin * measured.low, margin * measured.high), self._family)

    def _add_pair(self, activation: Activation) -> None:
        tensor, grid = activation.tensor, self._grids[activation.tensor]
        dtype = np.dtype(self._family.activation_dtype)
        scale = self._constant(f"{tensor}_scale", np.array(grid.scale, np.float32))
        zero_point = self._constant(f"{tensor}_zero_point", np.array(grid.zero_point, dtype))
        quantized, dequantized = self._names.like(f"{tensor}_quantized"), self._names.like(f"{tensor}_dequantized")
        self._heads[tensor] = [
            self._node("QuantizeLinear", [tensor, scale, zero_point], quantized),
            self._node("DequantizeLinear", [quantized, scale, zero_point], dequantized),
        ]
        self._inputs |= dict.fromkeys(activation.readers, dequantized)

    def _add_weight(self, weight: Weight) -> None:
        values = self._graph.constant(weight.tensor)
        if not np.isfinite(values).all():
            raise GraphRefused(
                f"weight {weight.tensor!r} of node {weight.node!r} is not finite; export another network"
            )
        bias = self._graph.constant(weight.bias) if weight.bias and self._family.int32_bias else None
        input_scale = self._grids[weight.activation].scale
        least = None if bias is None else _least_weight_scales(bias, input_scale)
        scales = weight_scales(values, weight.axis, self._family.weight_limit, least, self._weight_method)
        if self._family.weight_granularity == "tensor":
            scales = np.array(scales.max(), np.float32)
        self._dequantized(weight.tensor, self._stored(values, scales, weight), scales, weight.axis, (weight.node, 1))
        if bias is not None and weight.bias:
            bias_scales = (np.float32(input_scale) * scales).astype(np.float32)
            integers32 = np.rint(bias.astype(np.float64) / bias_scales).astype(np.int32)
            self._dequantized(weight.bias, integers32, bias_scales, 0, (weight.node, 2))

    def _stored(self, values: NDArray[np.float32], scales: NDArray[np.float32], weight: Weight) -> NDArray[np.generic]:
        """The weight in the family's numbers, rounded to nearest even where nothing better is known."""
        shape = [-1 if i == weight.axis else 1 for i in range(values.ndim)]
        scaled = values / (scales.reshape(shape) if scales.ndim else scales)
        limit = self._family.weight_limit
        if self._family.activation_dtype == "float8_e4m3fn":
            floats: NDArray[np.generic] = np.clip(scaled, -limit, limit).astype(ml_dtypes.float8_e4m3fn)
            return floats
        integers: NDArray[np.generic] = np.clip(np.rint(scaled), -limit, limit).astype(np.int8)
        rounded = self._roundings.get(weight.tensor)
        return integers if rounded is None else rounded.over(integers, scales, weight.axis)

    def _keep_float_weights(self) -> None:
        """What stays in float reads an 8-bit input through a DQ of equal scales per channel.

        The values are the same, and onnxruntime (core/optimizer/qdq_transformer/weight_bias_quantization.cc) leaves
        the weights behind it as they are. Where no dimension is known to be above 1, the float tensor is read.
        """
        int8 = set(self._placement.quantized_nodes)
        for node in self._graph.nodes:
            tensor, reader = node.input[0] if node.input else "", (node.name, 0)
            requantized = node.op_type in _REQUANTIZED_OPERATORS and self._graph.tail(node) in self._grids
            if not requantized or node.name in int8 or reader not in self._inputs:
                continue
            shape = self._graph.shape(tensor) or ()
            axis = next((i for i, size in enumerate(shape) if i > 0 and size is not None and size > 1), None)
            if axis is None:
                del self._inputs[reader]
            else:
                self._inputs[reader] = self._dequantized_per_channel(tensor, axis, int(shape[axis] or 0))

    def _dequantized_per_channel(self, tensor: str, axis: int, size: int) -> str:
        quantize, _ = self._heads[tensor][:2]
        grid, dtype = self._grids[tensor], np.dtype(self._family.activation_dtype)
        scale = self._constant(f"{tensor}_scales", np.full(size, grid.scale, np.float32))
        zero_point = self._constant(f"{tensor}_zero_points", np.full(size, grid.zero_point, dtype))
        output = self._names.like(f"{tensor}_dequantized")
        node = self._node("DequantizeLinear", [quantize.output[0], scale, zero_point], output)
        node.attribute.append(helper.make_attribute("axis", axis))
        self._heads[tensor].append(node)
        return output

    def _dequantized(
        self,
        tensor: str,
        integers: NDArray[np.generic],
        scales: NDArray[np.float32],
        axis: int,
        reader: tuple[str, int],
    ) -> None:
        """Stores integers and the DequantizeLinear that a node reads them through."""
        stored = self._constant(f"{tensor}_quantized", integers)
        scale = self._constant(f"{tensor}_scale", scales)
        zero_point = self._constant(f"{tensor}_zero_point", np.zeros(scales.shape, integers.dtype))
        output = self._names.like(f"{tensor}_dequantized")
        node = self._node("DequantizeLinear", [stored, scale, zero_point], output)
        if scales.ndim:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._leads.setdefault(reader[0], []).append(node)
        self._inputs[reader] = output

    def _nodes(self) -> list[NodeProto]:
        nodes = [pair for name in self._graph.inputs for pair in self._heads.get(name, [])]
        for original in self._graph.nodes:
            node = NodeProto()
            node.CopyFrom(original)
            for position in range(len(node.input)):
                node.input[position] = self._inputs.get((node.name, position), node.input[position])
            nodes += [*self._leads.get(node.name, []), node]
            nodes += [pair for name in node.output for pair in self._heads.get(name, [])]
        return nodes

    def _set_initializers(self, result: ModelProto) -> None:
        read = {name for node in result.graph.node for name in node.input}
        used = read | self._graph.outputs | self._graph.captured
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        del result.graph.initializer[:]
        result.graph.initializer.extend([*kept, *self._new_initializers])

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        unique = self._names.like(name)
        self._new_initializers.append(numpy_helper.from_array(values, unique))
        return unique

    def _node(self, operator: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(operator, inputs, [output], name=self._names.like(f"{operator}_{output}"))
