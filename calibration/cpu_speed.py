"""Which products 8 bits make faster on a CPU, given that crossing between float and 8 bits costs a pass.

Each operator is float or 8-bit; each tensor that one kind writes and the other reads costs a Q or a DQ, once. The
labelling of least total cost is a minimum cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import final

from onnx import NodeProto

from calibration.cpu_costs import CPU_COSTS, elements, product_costs
from calibration.graph import Graph
from calibration.min_cut import Labelling
from calibration.sites import PASS_THROUGH_OPERATORS

_WORTH_IT = 0.9
_JOINING = ("Add", "Concat")


def faster_in_float(graph: Graph, family: str, candidates: Collection[str]) -> set[str]:
    """Of the products that could be in 8 bits, by name, those that cost less in float.

    None where that would not win a tenth against 8 bits wherever they can be: weights in 8 bits take a quarter of the
    room, and the costs are not known better.
    """
    free, forced = _Costs(graph, family, candidates), _Costs(graph, family, candidates, forced=True)
    found = free.faster_in_float()
    forced.faster_in_float()
    return found if free.cost <= _WORTH_IT * forced.cost else set()


@final
class _Costs:
    """The labelling problem of one graph: the first label is 8 bits, the second float."""

    def __init__(self, graph: Graph, family: str, candidates: Collection[str], forced: bool = False) -> None:
        self._graph = graph
        self._float_penalty = math.inf if forced else 0.0
        self._costs = CPU_COSTS[family]
        self._labelling = Labelling()
        self._in_float = self._labelling.variable(math.inf, 0.0)
        self._variables = {
            node.name: self._variable(node) for node in graph.nodes if self._has_choice(node, candidates)
        }
        self._products = {name: node for name, node in self._variables.items() if name in candidates}

    def faster_in_float(self) -> set[str]:
        for tensor in (*self._graph.inputs, *(name for node in self._graph.nodes for name in node.output if name)):
            self._add_crossings(tensor)
        in_8_bits = self._labelling.cheapest()
        return {name for name, variable in self._products.items() if variable not in in_8_bits}

    @property
    def cost(self) -> float:
        """Nanoseconds of all that has a choice, once the question was asked."""
        return self._labelling.cost

    def _has_choice(self, node: NodeProto, candidates: Collection[str]) -> bool:
        return node.name in candidates or node.op_type in PASS_THROUGH_OPERATORS or node.op_type in _JOINING

    def _variable(self, node: NodeProto) -> int:
        if node.op_type in PASS_THROUGH_OPERATORS:
            return self._labelling.variable(0.0, 0.0)
        if node.op_type in _JOINING:
            size = elements(self._graph, node.output[0])
            return self._labelling.variable(size * self._costs.add, size * self._costs.float_add)
        in_float, in_8_bits = product_costs(self._graph, node, self._costs)
        return self._labelling.variable(in_8_bits, in_float + self._float_penalty)

    def _add_crossings(self, tensor: str) -> None:
        """A Q where float writes what 8 bits read, a DQ the other way round, each once for all readers."""
        writer = self._writer(tensor)
        readers = [self._variables.get(edge.node.name, self._in_float) for edge in self._graph.readers.get(tensor, ())]
        readers += [self._in_float] if tensor in self._graph.outputs else []
        if self._is_inside(tensor) or not readers:
            return
        size = elements(self._graph, tensor)
        quantize = size * self._costs.quantize + self._costs.node
        dequantize = size * self._costs.dequantize + self._costs.node
        q, dq = self._labelling.variable(0.0, 0.0), self._labelling.variable(0.0, 0.0)
        self._labelling.differ(q, writer, quantize)
        self._labelling.differ(writer, dq, dequantize)
        for reader in readers:
            self._labelling.differ(reader, q, math.inf)  # a reader in 8 bits makes the Q
            self._labelling.differ(dq, reader, math.inf)  # a reader in float makes the DQ

    def _writer(self, tensor: str) -> int:
        """Who decides in what the tensor is written: of a Relu's result, the convolution before the Relu."""
        node = self._graph.producer.get(tensor)
        if node is None:
            return self._in_float
        before = self._graph.producer.get(node.input[0]) if node.input else None
        if before is not None and before.name in self._variables and self._graph.tail(before) == tensor:
            return self._variables[before.name]
        variable = self._variables.get(node.name, self._in_float)
        to_float = node.name in self._products and node.op_type != "Conv"  # an 8-bit product without a Relu
        return self._in_float if to_float else variable

    def _is_inside(self, tensor: str) -> bool:
        """Between a product and the Relu that is part of it."""
        node = self._graph.producer.get(tensor)
        return node is not None and node.name in self._variables and self._graph.tail(node) != tensor
