"""Empirical bias correction: what quantization shifts the mean of each channel by is taken back in the bias.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2
and appendix D: with x the float and x_q the quantized activations, W and W_q the weights, of each output channel

    b += E[W x] - E[W_q x_q]

from the input to the output, so that x_q comes from layers that are corrected already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from calibration.graph import Graph
from calibration.names import FreshNames
from calibration.segments import SegmentedRun, channel_mean
from calibration.statistics.collect import Batch


@dataclass(frozen=True)
class _Site:
    """Where a correction goes: the constant at an input of a node, on the tensor that it makes."""

    node: str
    position: int
    tensor: str
    axis: int
    """Of the channels of the tensor."""


def bias_corrected(
    model: ModelProto, quantized: ModelProto, nodes: Sequence[str], batches: Sequence[Batch], threads: int
) -> ModelProto:
    """The prepared float model with corrected biases; quantizing it gives the corrected graph.

    `quantized` is what quantizing the model gave, `nodes` are the names of its nodes with INT8 weights. The batches are
    held, with what the graph keeps of each while it runs: give a few. A product without a bias gets one where its
    operator has a place for it, and keeps its shift where it has none (MatMul without an Add of a constant).
    """
    sites = _sites(Graph(model), nodes)
    wanted = _means(model, sites, batches, threads)
    run = SegmentedRun(quantized, [site.node for site in sites], batches, threads)
    by_node, shifts = {site.node: site for site in sites}, {}
    for node in run.stops():
        site = by_node[node.name]
        found = channel_mean([tensors[site.tensor] for tensors in run.live], site.axis)
        shift = shifts[site] = wanted[site] - found
        for tensors in run.live:
            array = tensors[site.tensor]
            shape = [-1 if i == site.axis % array.ndim else 1 for i in range(array.ndim)]
            tensors[site.tensor] = array + shift.astype(array.dtype).reshape(shape)
    return _with_biases(model, shifts)


def _means(
    model: ModelProto, sites: Sequence[_Site], batches: Sequence[Batch], threads: int
) -> dict[_Site, NDArray[np.float64]]:
    run = SegmentedRun(model, [site.node for site in sites], batches, threads)
    by_node = {site.node: site for site in sites}
    found = {}
    for node in run.stops():
        site = by_node[node.name]
        found[site] = channel_mean([tensors[site.tensor] for tensors in run.live], site.axis)
    return found


def _sites(graph: Graph, nodes: Sequence[str]) -> tuple[_Site, ...]:
    names = set(nodes)
    found = (_site(graph, node) for node in graph.nodes if node.name in names)
    return tuple(site for site in found if site is not None)


def _site(graph: Graph, node: NodeProto) -> _Site | None:
    if node.op_type == "Conv":
        return _Site(node.name, 2, node.output[0], 1)
    if node.op_type == "Gemm":
        return _Site(node.name, 2, node.output[0], 1) if _has_free_bias(graph, node) else None
    reader = graph.sole_reader(node.output[0])
    if reader is None or reader.op_type != "Add":
        return None
    position = 1 if reader.input[0] == node.output[0] else 0
    constant = reader.input[position]
    if constant not in graph.initializers or len(graph.shape(constant) or ()) != 1:
        return None
    return _Site(reader.name, position, reader.output[0], -1)


def _has_free_bias(graph: Graph, node: NodeProto) -> bool:
    """Whether a Gemm has no bias, or a constant one of one value a channel."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    return node.input[2] in graph.initializers and len(graph.shape(node.input[2]) or ()) == 1


def _with_biases(model: ModelProto, shifts: Mapping[_Site, NDArray[np.float64]]) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    graph, names = Graph(model), FreshNames(model)
    by_node = {site.node: (site, shift) for site, shift in shifts.items()}
    for node in result.graph.node:
        if node.name not in by_node:
            continue
        site, shift = by_node[node.name]
        before = node.input[site.position] if site.position < len(node.input) else ""
        bias = graph.constant(before).astype(np.float64) if before else 0.0
        tensor = names.like(f"{before or node.output[0]}_corrected")
        result.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), tensor))
        if site.position < len(node.input):
            node.input[site.position] = tensor
        else:
            node.input.append(tensor)
    used = {name for node in result.graph.node for name in node.input}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result
