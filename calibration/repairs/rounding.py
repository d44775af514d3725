"""Weights rounded so that what their layer computes changes least, in place of each to its nearest integer.

E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323, as J. Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm", arXiv
2507.18553, write it. With X what a layer reads, H = X X^T + damping = L L^T, w the weights of an output channel and s
their scale, the integers q are to keep

    (w - s q) H (w - s q)^T = ||(w - s q) L||^2

small, and are found from the last to the first, each making good what those before it have cost:

    q_j = round((w_j + sum_{i > j} (w_i - s q_i) L_ij / L_jj) / s)

Weights that meet the largest inputs come first, while the others are still free, as the authors' code has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.graph import Graph
from calibration.placement.families import FAMILY, Family
from calibration.placement.place import Placement
from calibration.placement.sites import Weight
from calibration.repairs.patches import columns
from calibration.segments import SegmentedRun
from calibration.statistics.collect import Batch
from calibration.weights import WeightMethod, weight_scales

COLUMNS = 4096
"""Of what a layer reads, from all samples together."""
MOST_WEIGHTS = 8192
"""Of an output channel: beyond it the second moments alone take half a gigabyte, and weights go to the nearest."""
_DAMPING = 0.05
"""Of the mean of H's diagonal, added to it; the paper's 0.01 fits few images too closely (a RepVGG: 0.7 dB)."""
_BLOCK = 64
_SEED = 0


@dataclass(frozen=True)
class Rounded:
    """A weight in integers."""

    levels: NDArray[np.int8]
    """In the weight's shape."""
    scales: NDArray[np.float32]
    """(channels,), or () where one serves them all."""

    def over(self, nearest: NDArray[np.generic], scales: NDArray[np.float32], axis: int) -> NDArray[np.generic]:
        """These integers, but the nearest ones in channels that have another scale by now."""
        same = np.broadcast_to(scales == self.scales, self.levels.shape[axis])
        return np.where(same.reshape([-1 if i == axis else 1 for i in range(self.levels.ndim)]), self.levels, nearest)


Roundings = Mapping[str, Rounded]
"""By the name of the weight's tensor."""


def roundings_of(
    model: ModelProto, placements: Mapping[str, Placement], batches: Sequence[Batch], threads: int, method: WeightMethod
) -> dict[str, Roundings]:
    """Of the weights of each placement, by the placement's name.

    One pass over the batches serves all placements; they are held, with what the graph keeps of each while it runs:
    give a few. A weight that two nodes read is rounded for both.
    """
    weights = {(weight.node, weight.tensor): weight for each in placements.values() for weight in each.weights}
    grids = {_grid(FAMILY[each.family]): FAMILY[each.family] for each in placements.values()}
    found: dict[tuple[int, str], dict[str, Rounded]] = {grid: {} for grid in grids}
    for weight, values, moments in _moments(model, list(weights.values()), batches, threads):
        root = Root.of(moments)
        for grid, family in grids.items():
            found[grid][weight.tensor] = _rounded(values, weight.axis, family, root, method)
    return {
        name: {weight.tensor: of[weight.tensor] for weight in each.weights if weight.tensor in of}
        for name, each in placements.items()
        for of in (found[_grid(FAMILY[each.family])],)
    }


def _grid(family: Family) -> tuple[int, str]:
    return family.weight_limit, family.weight_granularity


def _moments(
    model: ModelProto, weights: Sequence[Weight], batches: Sequence[Batch], threads: int
) -> Iterator[tuple[Weight, NDArray[np.float32], NDArray[np.float32]]]:
    """Each weight, its values and the second moments of what it is multiplied with, (groups, weights, weights)."""
    graph = Graph(model)
    by_node = {weight.node: weight for weight in weights if _is_roundable(graph, weight)}
    left = Counter(weight.tensor for weight in by_node.values())
    sums: dict[str, NDArray[np.float32]] = {}
    draw = np.random.default_rng(_SEED)
    read = {node.input[0] for node in graph.nodes if node.name in by_node}
    makers = {graph.producer[tensor].name for tensor in read if tensor in graph.producer}
    run = SegmentedRun(model, sorted(makers | set(by_node)), batches, threads)  # what is read is kept at a stop alone
    for node in run.stops():
        if node.name not in by_node:
            continue
        weight = by_node[node.name]
        values = graph.constant(weight.tensor)
        total = sums.pop(weight.tensor, np.zeros((), np.float32))
        for tensors in run.live:
            x = columns(tensors[node.input[0]], node, values.shape[2:], COLUMNS // len(run.live), draw)
            # Half the work of `x @ x.transpose(0, 2, 1)`.
            total = np.asarray(total + np.stack([each @ each.T for each in x]), np.float32)
        left[weight.tensor] -= 1
        if left[weight.tensor]:
            sums[weight.tensor] = total
        else:
            yield weight, values, total


def _is_roundable(graph: Graph, weight: Weight) -> bool:
    shape = [size or 1 for size in graph.shape(weight.tensor) or ()]
    readers = [edge.node for edge in graph.readers.get(weight.tensor, ())]
    alike = len({node.op_type for node in readers}) == 1
    return alike and int(np.prod(shape)) // max(shape[weight.axis], 1) <= MOST_WEIGHTS


def _rounded(values: NDArray[np.float32], axis: int, family: Family, root: Root, method: WeightMethod) -> Rounded:
    scales = weight_scales(values, axis, family.weight_limit, None, method)
    if family.weight_granularity == "tensor":
        scales = np.array(scales.max(), np.float32)
    moved = np.moveaxis(values, axis, 0)
    rows = moved.reshape(len(root.order), -1, root.order.shape[1])  # (groups, channels of one, weights)
    of_rows = np.broadcast_to(scales, len(moved)).reshape(rows.shape[:2])
    levels = root.nearest_levels(rows, of_rows, family.weight_limit).astype(np.int8).reshape(moved.shape)
    return Rounded(np.ascontiguousarray(np.moveaxis(levels, 0, axis)), scales)


@dataclass(frozen=True)
class Root:
    """L L^T = H of each group, with its rows and columns in an order of their own."""

    order: NDArray[np.intp]
    """(groups, weights)."""
    upper: NDArray[np.float64]
    """L^T: (groups, weights, weights)."""

    @classmethod
    def of(cls, moments: NDArray[np.floating[Any]]) -> Root:
        """moments: (groups, weights, weights); a group that met nothing but zeros counts as unit noise."""
        diagonal = np.diagonal(moments, axis1=1, axis2=2)
        mean = diagonal.mean(axis=1, dtype=np.float64)
        order = np.argsort(diagonal, axis=1, kind="stable")
        groups = np.arange(len(order))[:, None, None]
        damped = moments[groups, order[:, :, None], order[:, None, :]].astype(np.float64)
        index = np.arange(order.shape[1])
        damped[:, index, index] += np.where(mean > 0, _DAMPING * mean, 1.0)[:, None]
        return cls(order, np.ascontiguousarray(np.linalg.cholesky(damped).swapaxes(1, 2), np.float64))

    def nearest_levels(self, rows: NDArray[np.float32], scales: NDArray[np.float32], limit: int) -> NDArray[np.float64]:
        """(groups, channels, weights) in [-limit, limit], of weights of this shape and (groups, channels) scales."""
        order = self.order[:, None, :]
        wanted = np.take_along_axis(rows, order, 2).swapaxes(1, 2).astype(np.float64)
        step = scales.astype(np.float64)
        off = np.zeros_like(wanted)  # w - s q, where it is known
        levels = np.empty_like(wanted)
        weights = wanted.shape[1]
        for start in range((weights - 1) // _BLOCK * _BLOCK, -1, -_BLOCK):
            stop = min(start + _BLOCK, weights)
            owed = self.upper[:, start:stop, stop:] @ off[:, stop:]
            for j in range(stop - 1, start - 1, -1):
                owed_within = (self.upper[:, j : j + 1, j + 1 : stop] @ off[:, j + 1 : stop])[:, 0]
                target = wanted[:, j] + (owed[:, j - start] + owed_within) / self.upper[:, j, j, None]
                levels[:, j] = np.clip(np.rint(target / step), -limit, limit)
                off[:, j] = wanted[:, j] - levels[:, j] * step
        found = np.empty(rows.shape)
        np.put_along_axis(found, order, levels.swapaxes(1, 2), 2)
        return found
