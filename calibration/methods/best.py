"""For each tensor the method whose range does the least harm to what is computed from it.

A method sees one histogram; what counts is the error at the output of the nodes that read the tensor. It is exact here:
on a few images each reader runs once on x and once on the quantized x of each method's range, with everything else in
float, and the squared errors of the outputs are compared. Where families have grids of both kinds, symmetric and not,
the range of least product of their errors is taken. It costs a forward pass for each method and kind of grid over those
images, piece by piece, so memory depends on them and on the graph alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration import METHODS
from calibration.graph import Graph
from calibration.methods.method import Range
from calibration.placement.families import FAMILY, Family
from calibration.placement.place import Placement
from calibration.qdq import activation_grid
from calibration.ranges import Ranges, ranges_from_sketches
from calibration.segments import SegmentedRun, node_session
from calibration.statistics import Sketches
from calibration.statistics.collect import Batch

BEST = "best"
_OTHERWISE = "mse"
"""For a tensor that no quantized node reads: nothing says which error would count."""


def best_ranges(
    model: ModelProto, sketches: Sketches, placements: Sequence[Placement], batches: Sequence[Batch], threads: int
) -> Ranges:
    """Ranges for what the placements quantize, chosen tensor by tensor; the batches are held: give a few."""
    choices = {name: ranges_from_sketches(sketches, name) for name in METHODS}
    grids = _distinct([FAMILY[placement.family] for placement in placements])
    errors = _errors(model, choices, _reads(placements), grids, batches, threads)
    methods = {tensor: min(found, key=found.__getitem__) for tensor, found in errors.items()}
    chosen = {tensor: choices[methods.get(tensor, _OTHERWISE)] for tensor in sorted(sketches.tensors)}
    return Ranges(
        BEST,
        sketches.images,
        {tensor: ranges.of(tensor) for tensor, ranges in chosen.items()},
        {tensor: ranges.method for tensor, ranges in chosen.items()},
    )


def _distinct(families: Sequence[Family]) -> list[Family]:
    """One for each kind of grid."""
    return list({(family.symmetric_activations, family.activation_dtype): family for family in families}.values())


def _reads(placements: Sequence[Placement]) -> dict[str, list[tuple[str, int]]]:
    """By node: the quantized tensors that it reads, each with its position."""
    found: dict[str, dict[tuple[str, int], None]] = {}
    for placement in placements:
        for activation in placement.activations:
            for node, position in activation.readers:
                found.setdefault(node, {})[activation.tensor, position] = None
    return {node: list(reads) for node, reads in found.items()}


def _errors(
    model: ModelProto,
    choices: Mapping[str, Ranges],
    reads: Mapping[str, Sequence[tuple[str, int]]],
    grids: Sequence[Family],
    batches: Sequence[Batch],
    threads: int,
) -> dict[str, dict[str, float]]:
    """By tensor and method: the sum over readers and kinds of grid of the logarithm of the squared error."""
    graph = Graph(model)
    tensors = {tensor for each in reads.values() for tensor, _ in each}
    read = tensors | {name for node in graph.nodes if node.name in reads for name in node.input}
    makers = {graph.producer[name].name for name in read if name in graph.producer}  # only there is it kept
    run = SegmentedRun(model, sorted(makers | set(reads)), batches, threads)
    found: dict[str, dict[str, float]] = {
        tensor: dict.fromkeys(choices, 0.0) for tensor in tensors if tensor in choices[_OTHERWISE].tensors
    }
    for node in run.stops():
        for tensor, position in reads.get(node.name, ()):
            if tensor not in found or not graph.is_float(node.output[0]):
                continue
            session = node_session(model, node, run.live[0], threads)
            for family in grids:
                known: dict[Range, float] = {}
                for method, ranges in choices.items():
                    chosen = ranges.of(tensor)
                    if chosen not in known:
                        known[chosen] = _log_error(session, node, position, run.live, chosen, family)
                    found[tensor][method] += known[chosen]
    return found


def _log_error(
    session: Any,
    node: NodeProto,
    position: int,
    live: Sequence[Mapping[str, NDArray[Any]]],
    chosen: Range,
    family: Family,
) -> float:
    total = 0.0
    names = [entry.name for entry in session.get_inputs()]
    for tensors in live:
        feeds = {name: tensors[name] for name in names}
        feeds[node.input[position]] = fake_quantized(tensors[node.input[position]], chosen, family)
        (found,) = session.run([node.output[0]], feeds)
        total += float(np.square(found.astype(np.float64) - tensors[node.output[0]]).sum())
    return float(np.log(total + np.finfo(np.float64).tiny))


def fake_quantized(values: NDArray[np.float32], chosen: Range, family: Family) -> NDArray[np.float32]:
    """What a Q and a DQ of the family make of the values."""
    grid = activation_grid(chosen, family)
    least, most = (0, 255) if family.activation_dtype == "uint8" else (-128, 127)
    levels = np.clip(np.rint(values / np.float32(grid.scale)) + grid.zero_point, least, most)
    return np.asarray((levels - grid.zero_point) * np.float32(grid.scale), np.float32)
