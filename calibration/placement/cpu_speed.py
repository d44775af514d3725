"""Which products 8 bits make faster on a CPU, given that crossing between float and 8 bits costs a pass.

Each operator is float or 8-bit; each tensor that one kind writes and the other reads costs a Q or a DQ, once. The
labelling of least total cost is a minimum cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import final

from onnx import NodeProto

from calibration.graph import Graph
from calibration.placement.cpu_costs import CPU_COSTS, elements, product_costs
from calibration.placement.min_cut import Labelling
from calibration.placement.sites import passes_through

_WORTH_IT = 0.9
_SHORT_NS = 100_000.0
"""Below it, what onnxruntime does around its operators decides, which the costs do not know well."""
_JOINING = ("Add", "Concat")


@dataclass(frozen=True)
class CpuSpeed:
    """Which products are left in float since 8 bits would be slower, and what that is estimated to bring.

    Times are of one sample, on one thread: of the products that could be in 8 bits, what joins their results, and the
    passes between float and 8 bits.
    """

    products: int
    """That could be in 8 bits."""
    in_float: tuple[str, ...]
    """Of them, by name, in the order of the graph."""
    float_us: float
    """With all of them in float."""
    eight_bit_us: float
    """With all of them in 8 bits."""
    placed_us: float
    """As they are placed."""

    @property
    def nothing_pays(self) -> bool:
        """Whether no product at all is in 8 bits, though some could be."""
        return bool(self.in_float) and len(self.in_float) == self.products

    def in_words(self) -> str:
        """What a person must know of it."""
        times = f"{self.placed_us:,.0f} us against {self.float_us:,.0f} in FP32"
        if self.nothing_pays:
            slower = self.eight_bit_us / self.float_us
            whole = f"all {self.products} products in INT8 would take {slower:.2f} times as long as in FP32"
            return f"INT8 pays nowhere on this CPU: {whole}"
        if self.placed_us > self.float_us:
            return f"INT8 may be slower than FP32: its products are estimated at {times}; measure both"
        left = f"{len(self.in_float)} of {self.products} products stay in float, where INT8 would be slower; "
        share = f"{self.placed_us / self.float_us:.2f} of their time in FP32"
        return f"{left if self.in_float else ''}the products are estimated at {share}"


def cpu_speed(graph: Graph, family: str, candidates: Collection[str], may_leave_all: bool = True) -> CpuSpeed:
    """Of the products that could be in 8 bits, by name, those that cost less in float stay there.

    None where that would not win a tenth against 8 bits wherever they can be, and those are faster than float: weights
    in 8 bits take a quarter of the room, and the costs are not known better. All of them where no 8 bits pay, unless
    the graph is so short that the costs say little, or a caller wants some in 8 bits whatever it costs.
    """
    free, forced = _Costs(graph, family, candidates), _Costs(graph, family, candidates, forced=True)
    found, in_float_ns = free.faster_in_float(), free.cost_in_float()
    forced.faster_in_float()
    short = in_float_ns < _SHORT_NS
    if found == set(candidates):
        left = found if may_leave_all and not short else set()
    else:
        slower = forced.cost > in_float_ns and not short
        left = found if slower or free.cost <= _WORTH_IT * forced.cost else set()
    names = tuple(node.name for node in graph.nodes if node.name in left)
    placed_ns = in_float_ns if left == set(candidates) else free.cost if left else forced.cost
    return CpuSpeed(len(candidates), names, in_float_ns / 1e3, forced.cost / 1e3, placed_ns / 1e3)


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
        self._products = {node.name: node for node in graph.nodes if node.name in candidates}

    def faster_in_float(self) -> set[str]:
        for tensor in (*self._graph.inputs, *(name for node in self._graph.nodes for name in node.output if name)):
            self._add_crossings(tensor)
        in_8_bits = self._labelling.cheapest()
        return {name for name in self._products if self._variables[name] not in in_8_bits}

    def cost_in_float(self) -> float:
        """Nanoseconds of all that has a choice, were none of it in 8 bits."""
        costs = self._costs
        products = sum(product_costs(self._graph, node, costs)[0] for node in self._products.values())
        joins = (node for node in self._graph.nodes if node.op_type in _JOINING)
        return products + sum(elements(self._graph, node.output[0]) for node in joins) * costs.float_add

    @property
    def cost(self) -> float:
        """Nanoseconds of all that has a choice, once the question was asked."""
        return self._labelling.cost

    def _has_choice(self, node: NodeProto, candidates: Collection[str]) -> bool:
        return node.name in candidates or passes_through(node) or node.op_type in _JOINING

    def _variable(self, node: NodeProto) -> int:
        if passes_through(node):
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
