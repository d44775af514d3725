"""Rules for onnxruntime on a CPU."""

from __future__ import annotations

import math

from onnx import NodeProto

from calibration.graph import Edge, Graph
from calibration.placement.cpu_speed import CpuSpeed, cpu_speed
from calibration.placement.families import Family
from calibration.placement.rules.cpu import (
    CONVOLUTION_8_BITS,
    CUT_BY_ZERO_POINT,
    FASTER_IN_FLOAT,
    JOINS_8_BITS,
    LARGE_HEAD,
    MOVES_8_BITS,
    NO_8_BIT_CPU,
    PRODUCT_8_BITS,
    PRODUCT_TO_FLOAT,
    READ_IN_FLOAT,
)
from calibration.placement.rules.every_family import GRAPH_OUTPUT, OUTPUT_HEAD
from calibration.placement.rules.rule import Verdict
from calibration.placement.sites import (
    Operands,
    Sites,
    bias_of,
    int8_operands,
    is_head,
    passes_through,
)
from calibration.prepare import COMPUTE_OPERATORS

_JOINING_OPERATORS = ("Add", "Concat")
"""onnxruntime has QLinearAdd and QLinearConcat: INT8 in, INT8 out, each input with its own scale."""
_LARGE_HEAD = 2**18
"""Weights, 1 MB in FP32: what the cache of a core does not hold is read from memory for each sample."""
_HEAD_MARGIN = 2.0
"""A head reads one vector a sample: of so few values 64 images do not show the extremes, and what is cut off here is
missing in the answer, while one bit of eight is little. Margins of 1, 1.35 and 2 for a ResNet-18: 28.5, 29.9 and 29.9
dB; of 1.25, 1.5 and 2.5 for a RepVGG-A0: 16.6, 18.2 and 19.7."""


def place_cpu(graph: Graph, sites: Sites, family: Family, may_leave_all: bool) -> CpuSpeed:
    """Convolutions from 8 bits to 8 bits, products from 8 bits to float, and what joins 8 bits with 8 bits.

    All products stay in float where 8 bits pay nowhere, if they may.
    """
    speed = _leave_what_is_faster_in_float(graph, sites, family, may_leave_all)
    undecided = [node for node in graph.nodes if not sites.is_decided(node)]
    for node in undecided:
        if node.op_type in COMPUTE_OPERATORS:
            _place_compute(graph, sites, node)
    for node in undecided:
        if node.op_type not in COMPUTE_OPERATORS:
            _place_between(graph, sites, node)
    _read_dequantized_everywhere(graph, sites)
    return speed


def _leave_what_is_faster_in_float(graph: Graph, sites: Sites, family: Family, may_leave_all: bool) -> CpuSpeed:
    products = [node for node in graph.nodes if node.op_type in COMPUTE_OPERATORS and not sites.is_decided(node)]
    candidates = {node.name for node in products if isinstance(_operands_of(graph, node), Operands)}
    speed = cpu_speed(graph, family.name, candidates, may_leave_all)
    for node in products:
        if node.name in speed.in_float:
            sites.refuse(node, FASTER_IN_FLOAT.says(family=family.name))
    return speed


def _operands_of(graph: Graph, node: NodeProto) -> Operands | Verdict:
    """What the node multiplies, or the reason why it stays in float; an output head does, unless it is large."""
    operands = int8_operands(graph, node)
    in_float = is_head(graph, node) and not _is_large_head(graph, node)
    return OUTPUT_HEAD.says() if isinstance(operands, Operands) and in_float else operands


def _is_large_head(graph: Graph, node: NodeProto) -> bool:
    """Whether memory decides what the head costs, and 8 bits can multiply without rounding its result."""
    size = math.prod(length or 0 for length in graph.shape(node.input[1]) or (0,))
    return node.op_type != "Conv" and graph.tail(node) == node.output[0] and size >= _LARGE_HEAD


def _place_compute(graph: Graph, sites: Sites, node: NodeProto) -> None:
    operands = _operands_of(graph, node)
    if isinstance(operands, Verdict):
        sites.refuse(node, operands)
    else:
        _quantize_compute(graph, sites, node, operands)


def _quantize_compute(graph: Graph, sites: Sites, node: NodeProto, operands: Operands) -> None:
    sites.read_operands_dequantized(node, operands, bias_of(graph, node))
    if node.op_type == "Conv":
        sites.read_dequantized(graph.tail(node), [])  # without a Q on its output a convolution stays float
        sites.accept(node, CONVOLUTION_8_BITS.says())
    elif graph.tail(node) != node.output[0]:
        sites.read_dequantized(graph.tail(node), [])  # else onnxruntime keeps a float product with the Relu
        sites.accept(node, PRODUCT_8_BITS.says())
    elif is_head(graph, node):
        sites.read_dequantized(node.input[0], [], margin=_HEAD_MARGIN)
        sites.accept(node, LARGE_HEAD.says())
    else:
        sites.accept(node, PRODUCT_TO_FLOAT.says())


def _place_between(graph: Graph, sites: Sites, node: NodeProto) -> None:
    inputs = [name for name in node.input if name and name not in graph.initializers]
    in_8_bits = bool(inputs) and all(name in sites.activations for name in inputs)
    if passes_through(node) and node.input[0] in sites.activations:
        _pass_through(graph, sites, node)
    elif node.op_type in _JOINING_OPERATORS and len(inputs) > 1 and in_8_bits:
        _join(graph, sites, node)
    elif _is_cut(graph, node) and sites.is_quantized(graph.producer[node.input[0]]):
        sites.accept(node, CUT_BY_ZERO_POINT.says(before=graph.producer[node.input[0]].name))
    else:
        sites.refuse(node, NO_8_BIT_CPU.says(operator=node.op_type))


def _pass_through(graph: Graph, sites: Sites, node: NodeProto) -> None:
    if node.output[0] in graph.outputs:
        sites.refuse(node, GRAPH_OUTPUT.says())
        return
    source = sites.activations[node.input[0]].range_from
    sites.read_dequantized(node.output[0], [], source)
    sites.accept(node, MOVES_8_BITS.says())


def _join(graph: Graph, sites: Sites, node: NodeProto) -> None:
    tail = graph.tail(node)
    if tail in graph.outputs:
        sites.refuse(node, GRAPH_OUTPUT.says())
        return
    if not any(_reads_8_bits(sites, edge.node) for edge in graph.readers.get(tail, ())):
        sites.refuse(node, READ_IN_FLOAT.says())
        return
    sites.read_dequantized(tail, [])
    sites.accept(node, JOINS_8_BITS.says(operator=node.op_type))


def _reads_8_bits(sites: Sites, node: NodeProto) -> bool:
    between = passes_through(node) or node.op_type in _JOINING_OPERATORS
    return between or sites.is_quantized(node)


def _is_cut(graph: Graph, node: NodeProto) -> bool:
    producer = graph.producer.get(node.input[0]) if node.input else None
    return producer is not None and graph.tail(producer) == node.output[0] != producer.output[0]


def _read_dequantized_everywhere(graph: Graph, sites: Sites) -> None:
    """An operator fuses only if its Q is all that reads it, so everyone else reads behind the Q."""
    for tensor in list(sites.activations):
        producer = graph.producer.get(tensor)
        in_8_bits = producer is not None and sites.is_quantized(producer)
        readers = graph.readers.get(tensor, ())
        chosen = readers if in_8_bits else _quantized(sites, readers)
        sites.read_dequantized(tensor, list(chosen))


def _quantized(sites: Sites, edges: tuple[Edge, ...]) -> list[Edge]:
    return [edge for edge in edges if sites.is_quantized(edge.node)]
