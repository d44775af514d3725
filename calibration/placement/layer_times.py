"""What each convolution and product is estimated to take on a CPU, by the costs that decide its placement."""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from calibration.graph import Graph
from calibration.placement.cpu_costs import CPU_COSTS, CpuCosts, elements, product_costs


def estimated_times_us(model: ModelProto, family: str, layers: Iterable[str]) -> dict[str, tuple[float, float]] | None:
    """(in float, in 8 bits) by node, microseconds of one sample on one thread; None where the family is of no CPU.

    Of the layers alone: Q, DQ and all that stands between layers are not in it. What is left in float takes, of the
    layers' time, by these estimates / by onnxruntime's profile on AVX2: MobileNetV3-large 66 / 70 %, EfficientNet-B0
    57 / 63 %, ResNet-18 0.1 / 0.6 %.
    """
    if family not in CPU_COSTS:
        return None
    graph = Graph(model)
    nodes = {node.name: node for node in graph.nodes}
    times = {name: _nanoseconds(graph, nodes[name], CPU_COSTS[family]) for name in layers}
    return {name: (in_float / 1e3, in_8_bits / 1e3) for name, (in_float, in_8_bits) in times.items()}


def _nanoseconds(graph: Graph, node: NodeProto, costs: CpuCosts) -> tuple[float, float]:
    if node.op_type != "ConvTranspose":
        return product_costs(graph, node, costs)
    multiplied = elements(graph, node.input[0]) * math.prod(
        size or 1 for size in (graph.shape(node.input[1]) or ())[1:]
    )
    in_float = multiplied * costs.float_product + elements(graph, node.output[0]) * costs.float_write
    return in_float, in_float  # no family runs it in 8 bits
