"""An index over any Q/DQ graph, whoever wrote it: what each operand of a product was quantized with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx.inliner
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.external_tensors import values_of
from calibration.graph import attribute

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIR = ("QuantizeLinear", "DequantizeLinear")
MOVING_OPERATORS = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity", "Cast"}
)
"""They change no value that lies on the grid, so runtimes look through them for the DQ of an operand."""

_TYPES: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
_HALF_TYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Link:
    """One QuantizeLinear or DequantizeLinear."""

    node: NodeProto
    scale: NDArray[np.float32] | None
    """None where it is computed at run time."""
    zero_point: NDArray[np.int64] | None
    """None where it is left out or computed at run time."""
    dtype: str
    """Of the quantized side: int8, uint8, int32, float8e4m3fn, …; empty where it cannot be told."""
    axis: int
    """Negative ones are not resolved."""
    has_zero_point: bool
    half_scale: bool

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scale.size > 1


@dataclass(frozen=True)
class Operand:
    """What a product multiplies, seen through its DequantizeLinear."""

    dq: Link
    axis: int | None
    """Of the scales in the operand's own layout, never negative; None per tensor or where it cannot be told."""
    constant: bool
    """Whether it is a weight."""


class QdqGraph:
    """Nodes of the graph and of its subgraphs in one list; what they read and write has one name each."""

    def __init__(self, model: ModelProto) -> None:
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
        inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
        self.nodes: tuple[NodeProto, ...] = tuple(_nodes(inlined.graph))
        self._tensors = {tensor.name: tensor for graph in _graphs(inlined.graph) for tensor in graph.initializer}
        self._tensors |= {node.output[0]: tensor for node in self.nodes for tensor in _constant_tensors(node)}
        self.inputs = {value.name: value for graph in _graphs(inlined.graph) for value in graph.input}
        self.outputs = frozenset(value.name for graph in _graphs(inlined.graph) for value in graph.output)
        self.producer = {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def links(self) -> dict[str, Link]:
        """Every Q and DQ, by the tensor that it writes."""
        return {node.output[0]: self._link(node) for node in self.nodes if node.op_type in PAIR}

    def products(self) -> Iterator[NodeProto]:
        return (node for node in self.nodes if node.op_type in PRODUCTS)

    def is_constant(self, tensor: str) -> bool:
        return tensor in self._tensors

    def values(self, tensor: str) -> NDArray[np.generic] | None:
        """The values of a constant."""
        return values_of(self._tensors[tensor]) if tensor in self._tensors else None

    def integers(self, dq: Link) -> NDArray[np.generic] | None:
        """What a weight's DQ reads, where it is stored in integers."""
        return self.values(dq.node.input[0])

    def quantizer(self, dq: Link) -> Link | None:
        """The Q whose result a DQ reads, through operators that only move values."""
        return self.links.get(self._source(dq.node.input[0]))

    def operand(self, node: NodeProto, position: int) -> Operand | None:
        """None where the operand of a product is float."""
        tensor = node.input[position] if position < len(node.input) else ""
        source, transposes = self._source(tensor), self._transposes(tensor)
        link = self.links.get(source)
        if link is None or link.node.op_type != "DequantizeLinear":
            return None
        stored = self.stored(tensor)
        return Operand(link, self._axis(link, stored, transposes), self.is_constant(stored))

    def stored(self, operand: str) -> str:
        """What an operand was before its Q/DQ pair: for a weight, the constant."""
        while (link := self.links.get(self._source(operand))) is not None:
            operand = link.node.input[0]
        return self._source(operand)

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Of a constant."""
        return tuple(self._tensors[tensor].dims) if tensor in self._tensors else None

    def rank(self, tensor: str) -> int | None:
        """Of a constant."""
        return len(self._tensors[tensor].dims) if tensor in self._tensors else None

    def _axis(self, link: Link, stored: str, transposes: list[list[int]]) -> int | None:
        rank = self.rank(stored)
        if not link.per_channel or (rank is None and (link.axis < 0 or transposes)):
            return None
        axis = link.axis if link.axis >= 0 else link.axis + (rank or 0)
        for perm in transposes:
            axis = perm.index(axis) if axis in perm else axis
        return axis

    def _source(self, tensor: str) -> str:
        """The tensor that operators which only move values made this one of."""
        while (node := self.producer.get(tensor)) is not None and node.op_type in MOVING_OPERATORS:
            tensor = node.input[0]
        return tensor

    def _transposes(self, tensor: str) -> list[list[int]]:
        """Permutations between a DQ and the tensor, the one nearest to the DQ first."""
        found: list[list[int]] = []
        while (node := self.producer.get(tensor)) is not None and node.op_type in MOVING_OPERATORS:
            if node.op_type == "Transpose":
                given = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
                found.insert(0, given or list(reversed(range(self.rank(self._source(tensor)) or 2))))
            tensor = node.input[0]
        return found

    def _link(self, node: NodeProto) -> Link:
        scale = self.values(node.input[1])
        given = node.input[2] if len(node.input) > 2 else ""
        zero_point = self.values(given) if given else None
        return Link(
            node=node,
            scale=None if scale is None else scale.astype(np.float32),
            zero_point=None if zero_point is None else zero_point.astype(np.int64),
            dtype=self._dtype(node, given),
            axis=attribute(node, "axis", 1),
            has_zero_point=bool(given),
            half_scale=scale is not None and _TYPES[self._tensors[node.input[1]].data_type] in _HALF_TYPES,
        )

    def _dtype(self, node: NodeProto, zero_point: str) -> str:
        if zero_point in self._tensors:
            return _TYPES[self._tensors[zero_point].data_type]
        if node.op_type == "QuantizeLinear":
            return _TYPES[attribute(node, "output_dtype", 0) or TensorProto.UINT8]
        source = self._source(node.input[0])
        if source in self._tensors:
            return _TYPES[self._tensors[source].data_type]
        if source in self.inputs:
            return _TYPES[self.inputs[source].type.tensor_type.elem_type]
        producer = self.producer.get(source)
        if producer is None or producer.op_type != "QuantizeLinear":
            return ""
        return self._dtype(producer, producer.input[2] if len(producer.input) > 2 else "")


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for item in node.attribute:
            if item.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for inner in (item.g, *item.graphs) if item.type == AttributeProto.GRAPH else item.graphs:
                    yield from _graphs(inner)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _constant_tensors(node: NodeProto) -> Iterator[TensorProto]:
    if node.op_type != "Constant":
        return
    for item in node.attribute:
        if item.name == "value":
            yield item.t
        elif item.name.startswith("value_float") or item.name.startswith("value_int"):
            values = np.asarray(helper.get_attribute_value(item))
            yield numpy_helper.from_array(values.astype(np.float32 if "float" in item.name else np.int64))
