"""Who writes and who reads each tensor of a graph, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from calibration.external_tensors import values_of

SATURATING_OPERATORS = ("Relu", "Clip")
"""They cut what their input holds, in the requantizing kernel, so a range is wanted after them only."""


@dataclass(frozen=True)
class Edge:
    """One input of one node."""

    node: NodeProto
    position: int


class Graph:
    """An index over a prepared model, which it does not change."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: tuple[NodeProto, ...] = tuple(model.graph.node)
        self.inputs: tuple[str, ...] = tuple(value.name for value in model.graph.input)
        self.outputs: frozenset[str] = frozenset(value.name for value in model.graph.output)
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        graph = model.graph
        self._values: dict[str, ValueInfoProto] = {
            value.name: value for value in (*graph.input, *graph.value_info, *graph.output)
        }

    @cached_property
    def producer(self) -> dict[str, NodeProto]:
        """The node that writes a tensor; graph inputs and initializers have none."""
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def readers(self) -> dict[str, tuple[Edge, ...]]:
        """The node inputs that read a tensor, in the order of the graph."""
        found: dict[str, list[Edge]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name:
                    found.setdefault(name, []).append(Edge(node, position))
        return {name: tuple(edges) for name, edges in found.items()}

    @cached_property
    def captured(self) -> frozenset[str]:
        """What the subgraphs of control flow read from this graph, by name."""
        return frozenset(name for node in self.nodes for inner in subgraphs(node) for name in _names_read(inner))

    def sole_reader(self, tensor: str) -> NodeProto | None:
        """The only node that reads a tensor which is no graph output; None where there are none or several."""
        edges = self.readers.get(tensor, ())
        alone = len(edges) == 1 and tensor not in self.outputs and tensor not in self.captured
        return edges[0].node if alone else None

    def tail(self, node: NodeProto) -> str:
        """The tensor on which the node's result is requantized: after a Relu or Clip that alone reads it."""
        cutter = self._cutter(node.output[0])
        return str(node.output[0] if cutter is None else cutter.output[0])

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor is float32, as far as shape inference knows."""
        if tensor in self.initializers:
            return self.initializers[tensor].data_type == TensorProto.FLOAT
        value = self._values.get(tensor)
        return value is not None and value.type.tensor_type.elem_type == TensorProto.FLOAT

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Dimensions, None for a dynamic one; None where the rank is unknown."""
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        value = self._values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)

    def dimensions(self, tensor: str) -> tuple[int | str | None, ...] | None:
        """Like `shape`, with the names of dynamic dimensions that have one."""
        value = self._values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in value.type.tensor_type.shape.dim
        )

    def constant(self, tensor: str) -> NDArray[np.float32]:
        """The values of a float32 initializer."""
        return values_of(self.initializers[tensor]).astype(np.float32, copy=False)

    def activations(self) -> tuple[str, ...]:
        """Float32 tensors that depend on the input and have a use of their own, inputs first.

        A tensor that only a Relu reads is left out: what matters of it is what the Relu lets through, and reading it
        out would keep the runtime from fusing the two.
        """
        written = (name for node in self.nodes for name in node.output if name)
        measured = (*self.inputs, *(name for name in written if self._cutter(name) is None))
        return tuple(name for name in measured if self.is_float(name))

    def _cutter(self, tensor: str) -> NodeProto | None:
        """The Relu or Clip that alone reads a tensor."""
        reader = self.sole_reader(tensor)
        if reader is None or reader.op_type not in SATURATING_OPERATORS or reader.input[0] != tensor:
            return None
        return reader


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of an If, a Loop or a Scan."""
    for item in node.attribute:
        if item.type == AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


def _names_read(graph: GraphProto) -> Iterator[str]:
    """Of a subgraph and those inside it; names that it writes itself are among them and harm nothing."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from filter(None, node.input)
        for inner in subgraphs(node):
            yield from _names_read(inner)


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node, or the operator's default."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else int(helper.get_attribute_value(found))
