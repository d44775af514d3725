"""Rules for NVIDIA's deep learning accelerator, which takes networks of convolutions, layer after layer in INT8."""

from __future__ import annotations

from onnx import NodeProto, helper

from calibration.graph import Graph
from calibration.placement.rules.dla import DLA_CONVOLUTION, DLA_LAYER, DLA_LIMITS, NO_DLA
from calibration.placement.rules.every_family import GRAPH_OUTPUT
from calibration.placement.rules.rule import Verdict
from calibration.placement.sites import Sites, operands_of
from calibration.prepare import COMPUTE_OPERATORS

_LAYERS = ("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Add", "Sub", "Mul", "Max", "Min", "Concat")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")
_LARGEST = {"kernel_shape": 32, "strides": 8, "dilations": 32}
_LARGEST_POOL = {"kernel_shape": 8, "strides": 16}
_MOST_CHANNELS = 8192


def place_dla(graph: Graph, sites: Sites) -> None:
    """Every layer that the accelerator has, with a scale on each tensor between two of them; the rest is the GPU's."""
    for node in graph.nodes:
        if sites.is_decided(node):
            continue
        if node.op_type in COMPUTE_OPERATORS:
            _place_product(graph, sites, node)
        else:
            _place_layer(graph, sites, node)
    for tensor in list(sites.activations):
        readers = graph.readers.get(tensor, ())
        sites.read_dequantized(tensor, [edge for edge in readers if sites.is_quantized(edge.node)])


def _place_product(graph: Graph, sites: Sites, node: NodeProto) -> None:
    operands = operands_of(graph, node)
    if isinstance(operands, Verdict):
        sites.refuse(node, operands)
    elif node.op_type != "Conv":
        sites.refuse(node, NO_DLA.says(operator=node.op_type))
    elif (limit := _beyond(graph, node, _LARGEST)) is not None:
        sites.refuse(node, DLA_LIMITS.says(limit=limit))
    else:
        sites.read_operands_dequantized(node, operands)
        _quantize_result(graph, sites, node)
        sites.accept(node, DLA_CONVOLUTION.says())


def _place_layer(graph: Graph, sites: Sites, node: NodeProto) -> None:
    inputs = [name for name in node.input if name and name not in graph.initializers]
    cuts = bool(inputs) and _is_cut(graph, sites, node)
    if node.op_type not in (*_LAYERS, *_POOLS) or len(graph.shape(node.output[0]) or ()) != 4:
        sites.refuse(node, NO_DLA.says(operator=node.op_type))
    elif node.op_type in _POOLS and (limit := _beyond(graph, node, _LARGEST_POOL)) is not None:
        sites.refuse(node, DLA_LIMITS.says(limit=limit))
    elif not cuts and not all(name in sites.activations for name in inputs):
        sites.refuse(node, NO_DLA.says(operator=f"{node.op_type} of float tensors"))
    elif node.output[0] in graph.outputs:
        sites.refuse(node, GRAPH_OUTPUT.says())
    else:
        _quantize_result(graph, sites, node)
        sites.accept(node, DLA_LAYER.says(operator=node.op_type))


def _quantize_result(graph: Graph, sites: Sites, node: NodeProto) -> None:
    if graph.tail(node) not in graph.outputs:
        sites.read_dequantized(graph.tail(node), [])


def _is_cut(graph: Graph, sites: Sites, node: NodeProto) -> bool:
    """Whether the node is the Relu or Clip of a layer that runs on the accelerator."""
    before = graph.producer.get(node.input[0])
    return before is not None and sites.is_quantized(before) and graph.tail(before) == node.output[0]


def _beyond(graph: Graph, node: NodeProto, largest: dict[str, int]) -> str | None:
    """What of a layer is larger than the accelerator takes."""
    if len(graph.shape(node.input[0]) or ()) != 4:
        return "it is not two-dimensional"
    given = {item.name: list(helper.get_attribute_value(item)) for item in node.attribute if item.name in largest}
    if node.op_type == "Conv":
        shape = graph.shape(node.input[1]) or ()
        given["kernel_shape"] = [size or 0 for size in shape[2:]]
        if max(shape[0] or 0, shape[1] or 0) > _MOST_CHANNELS:
            return f"it has more than {_MOST_CHANNELS} channels"
    beyond = [name for name, sizes in given.items() if max(sizes, default=0) > largest[name]]
    return f"{beyond[0]} {given[beyond[0]]} goes beyond {largest[beyond[0]]}" if beyond else None
