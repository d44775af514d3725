"""Rules for TensorRT and TensorRT-RTX."""

from __future__ import annotations

import math
from collections.abc import Callable, Container

from onnx import NodeProto

from calibration.graph import SATURATING_OPERATORS, Edge, Graph
from calibration.placement.families import Family
from calibration.placement.rules.rule import Rule, Verdict
from calibration.placement.rules.tensorrt import (
    ADD_OF_FLOATS,
    BOTH_OPERANDS,
    FUSED_ACTIVATION,
    NO_INT8_TENSORRT,
    POOL_IN_INT8,
    REQUANTIZING_KERNEL,
    RESIDUAL_FLOAT,
    RESIDUAL_SKIP,
    SMALL_PRODUCT,
    TRANSPOSED_CONVOLUTION,
)
from calibration.placement.sites import Sites, operands_of
from calibration.prepare import COMPUTE_OPERATORS

_LEAST_PRODUCT_SIZE = 16
"""INT8 tensor cores multiply tiles of 16; a smaller product is padded and loses to float."""

_REQUANTIZED = frozenset(
    ("LayerNormalization", "Gelu", "Erf", "Sigmoid", "Mul", "HardSwish", "HardSigmoid", "PRelu", "LeakyRelu")
)
"""What TensorRT computes in the kernel that requantizes, where a Q follows."""


def place_tensorrt(graph: Graph, sites: Sites, family: Family) -> None:
    """Both operands of each convolution and product or neither; a residual add reads the skip through the same DQ."""
    undecided = [node for node in graph.nodes if not sites.is_decided(node)]
    for node in undecided:
        if node.op_type in COMPUTE_OPERATORS:
            _place_compute(graph, sites, node)
    for node in undecided:
        if node.op_type == "Add":
            _place_residual(graph, sites, node, family)
    pooled, requantized = _before_q(graph, sites, _is_crossed), _before_q(graph, sites, _is_crossed_or_fused)
    for node in undecided:
        if node.op_type not in ("Add", *COMPUTE_OPERATORS):
            sites.refuse(node, _rule_of_other(node, pooled, requantized).says())


def _place_compute(graph: Graph, sites: Sites, node: NodeProto) -> None:
    operands = operands_of(graph, node)
    if isinstance(operands, Verdict):
        sites.refuse(node, operands)
    elif (small := _small_dimension(graph, node)) is not None:
        sites.refuse(node, SMALL_PRODUCT.says(size=small))
    else:
        sites.read_operands_dequantized(node, operands)
        sites.accept(node, BOTH_OPERANDS.says())


def _small_dimension(graph: Graph, node: NodeProto) -> int | None:
    """K or N of a product where one is known to be below 16."""
    if node.op_type == "Conv":
        return None
    shape = graph.shape(node.input[1]) or ()
    sizes = [size for size in shape[-2:] if size is not None and size < _LEAST_PRODUCT_SIZE]
    return min(sizes, default=None)


def _place_residual(graph: Graph, sites: Sites, node: NodeProto, family: Family) -> None:
    """The convolution that the add fuses into stays float; the skip is read in INT8 where that saves bytes."""
    mains = _fusing_inputs(graph, sites, node)
    if not mains:
        sites.refuse(node, ADD_OF_FLOATS.says())
        return
    skip = 1 - mains[0]
    conv = graph.producer[node.input[mains[0]]].name
    if node.input[skip] in sites.activations or (len(mains) > 1 and family.quantizes_downsampled_skip):
        sites.read_dequantized(node.input[skip], [Edge(node, skip)])
        sites.accept(node, RESIDUAL_SKIP.says(conv=conv))
    else:
        sites.refuse(node, RESIDUAL_FLOAT.says(conv=conv))


def _fusing_inputs(graph: Graph, sites: Sites, node: NodeProto) -> list[int]:
    """Positions that come straight from an INT8 convolution which nothing else reads; the largest kernel first."""
    found = []
    for position, name in enumerate(node.input):
        producer = graph.producer.get(name)
        if producer is None or producer.op_type != "Conv" or graph.sole_reader(name) is None:
            continue
        if sites.is_quantized(producer):
            found.append((-_kernel_size(graph, producer), position))
    return [position for _, position in sorted(found)]


def _kernel_size(graph: Graph, conv: NodeProto) -> int:
    shape = graph.shape(conv.input[1]) or ()
    return math.prod(size or 1 for size in shape[2:])


def _rule_of_other(node: NodeProto, pooled: Container[str], requantized: Container[str]) -> Rule:
    if node.op_type in SATURATING_OPERATORS:
        return FUSED_ACTIVATION
    if node.op_type == "ConvTranspose":
        return TRANSPOSED_CONVOLUTION
    if node.op_type == "MaxPool" and node.name in pooled:
        return POOL_IN_INT8
    if node.op_type in _REQUANTIZED and node.name in requantized:
        return REQUANTIZING_KERNEL
    return NO_INT8_TENSORRT


def _before_q(graph: Graph, sites: Sites, through: Callable[[Graph, NodeProto], bool]) -> set[str]:
    """Nodes whose result is read behind a Q alone, at once or after nodes that it may go through."""
    found: set[str] = set()
    for node in reversed(graph.nodes):  # what reads a result comes after what writes it
        tensor = node.output[0]
        edges = graph.readers.get(tensor, ())
        if not edges or tensor in graph.outputs or tensor in graph.captured:
            continue
        behind_q = sites.activations[tensor].readers if tensor in sites.activations else ()
        if all(
            (edge.node.name, edge.position) in behind_q or (edge.node.name in found and through(graph, edge.node))
            for edge in edges
        ):
            found.add(node.name)
    return found


def _is_crossed(_: Graph, node: NodeProto) -> bool:
    """Whether TensorRT moves a Q from behind the node to before it."""
    return node.op_type == "MaxPool"


def _is_crossed_or_fused(graph: Graph, node: NodeProto) -> bool:
    """... or fuses the node into the kernel that requantizes; a decomposed GELU adds a constant there."""
    adds_constant = node.op_type == "Add" and any(name in graph.initializers for name in node.input)
    return adds_constant or _is_crossed(graph, node) or node.op_type in (*_REQUANTIZED, *SATURATING_OPERATORS)
