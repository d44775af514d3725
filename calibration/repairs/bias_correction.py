"""Empirical bias correction: what quantization shifts the mean of each channel by is taken back in the bias.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2
and appendix D: with x the float and x_q the quantized activations, W and W_q the weights, of each output channel

    b += E[W x] - E[W_q x_q]

from the input to the output, so that x_q comes from layers that are corrected already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.graph import Graph
from calibration.repairs.biases import BiasSite, bias_site, with_biases
from calibration.segments import SegmentedRun, channel_mean
from calibration.statistics.collect import Batch


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
    return with_biases(model, shifts)


def _means(
    model: ModelProto, sites: Sequence[BiasSite], batches: Sequence[Batch], threads: int
) -> dict[BiasSite, NDArray[np.float64]]:
    run = SegmentedRun(model, [site.node for site in sites], batches, threads)
    by_node = {site.node: site for site in sites}
    found = {}
    for node in run.stops():
        site = by_node[node.name]
        found[site] = channel_mean([tensors[site.tensor] for tensors in run.live], site.axis)
    return found


def _sites(graph: Graph, nodes: Sequence[str]) -> tuple[BiasSite, ...]:
    names = set(nodes)
    found = (bias_site(graph, node) for node in graph.nodes if node.name in names)
    return tuple(site for site in found if site is not None)
