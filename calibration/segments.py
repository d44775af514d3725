"""A graph run in pieces, one after another, so that what a piece gave can be changed before the next one reads it.

All batches go through a piece before the next begins; between pieces only the tensors that are still to be read are
kept. So the whole costs one forward pass, and its memory depends on the graph and on the images that were given, few
as they should be, never on how many images the graph was calibrated with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from calibration.errors import CalibrationError
from calibration.quality import session_as_written
from calibration.statistics.collect import Batch

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Segment:
    """The nodes after the last stop up to one that is stopped at, and what they exchange with the others."""

    stop: NodeProto | None
    """None: what comes after the last stop."""
    nodes: tuple[NodeProto, ...]
    reads: tuple[str, ...]
    """Tensors that earlier segments, or the graph's inputs, give."""
    gives: tuple[str, ...]
    """Tensors that later segments, or the graph's outputs, need, and what the stop gives."""


def segments_of(model: ModelProto, stops: Sequence[str]) -> tuple[Segment, ...]:
    """The graph cut behind each node whose name is in `stops`, in the order of the graph."""
    names, pieces = set(stops), [[]]  # type: tuple[set[str], list[list[NodeProto]]]
    for node in model.graph.node:
        pieces[-1].append(node)
        if node.name in names:
            pieces.append([])
    needed = {output.name for output in model.graph.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    found: list[Segment] = []
    for nodes in reversed(pieces):
        written = {name for node in nodes for name in node.output}
        stop = nodes[-1] if nodes and nodes[-1].name in names else None
        own = set(stop.output) if stop is not None else set()
        gives = tuple(sorted(written & (needed | own) - {""}))
        needed = (needed - written) | (_read(nodes) - written - constants)
        found.append(Segment(stop, tuple(nodes), tuple(sorted(_read(nodes) - written - constants)), gives))
    return tuple(segment for segment in reversed(found) if segment.nodes)


def _read(nodes: Sequence[NodeProto]) -> set[str]:
    """What the nodes read, those of their subgraphs too."""
    found = {name for node in nodes for name in node.input if name}
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node:
                    inner = {name for each in graph.node for name in each.output}
                    found |= _read(graph.node) - inner - {tensor.name for tensor in graph.initializer}
    return found


@final
class SegmentedRun:
    """Runs a model over some batches, segment after segment. `live[i]` holds what is still to be read of batch i."""

    def __init__(self, model: ModelProto, stops: Sequence[str], batches: Sequence[Batch], threads: int) -> None:
        self.live: list[Tensors] = [dict(batch.feeds) for batch in batches]
        self._model = model
        self._segments = segments_of(model, stops)
        self._threads = threads
        self._outputs = {output.name for output in model.graph.output}
        if not self.live:
            raise CalibrationError("no image to run the graph on; give at least one")

    def stops(self) -> Iterator[NodeProto]:
        """Runs up to one stop after another and gives the node; its inputs and output are in `live` until it goes on.

        What the caller writes into `live` meanwhile is what the rest of the graph reads.
        """
        for index, segment in enumerate(self._segments):
            self._run(segment)
            if segment.stop is not None:
                yield segment.stop
            later = {name for following in self._segments[index + 1 :] for name in following.reads} | self._outputs
            for tensors in self.live:
                for name in tensors.keys() - later:
                    del tensors[name]

    def _run(self, segment: Segment) -> None:
        session = session_as_written(_piece(self._model, segment, self.live[0]), self._threads)
        for tensors in self.live:
            feeds = {name: tensors[name] for name in segment.reads}
            tensors.update(zip(segment.gives, session.run(list(segment.gives), feeds), strict=True))


def node_session(model: ModelProto, node: NodeProto, known: Mapping[str, NDArray[Any]], threads: int) -> Any:
    """A session of one node, which is fed what it reads and is no constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    reads = tuple(sorted(_read([node]) - constants))
    return session_as_written(_piece(model, Segment(node, (node,), reads, (node.output[0],)), known), threads)


def _piece(model: ModelProto, segment: Segment, known: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The segment as a model of its own."""
    used = _read(segment.nodes)
    inputs = [_value_info(name, known[name]) for name in segment.reads]
    outputs = [helper.make_empty_tensor_value_info(name) for name in segment.gives]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = helper.make_graph(segment.nodes, "segment", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _value_info(name: str, array: NDArray[Any]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)


def channel_mean(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    """(channels,) over all other axes of all arrays."""
    total, count = 0.0, 0
    for array in arrays:
        others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
        total = total + array.sum(axis=others, dtype=np.float64)
        count += array.size // array.shape[axis]
    return np.asarray(total / max(count, 1), np.float64)


@dataclass(frozen=True)
class ChannelExtremes:
    """(channels,) each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def middle(self) -> NDArray[np.float64]:
        return (self.low + self.high) / 2

    @property
    def half_range(self) -> NDArray[np.float64]:
        return (self.high - self.low) / 2


def channel_extremes(
    model: ModelProto, axes: Mapping[str, int], batches: Sequence[Batch], threads: int
) -> dict[str, ChannelExtremes]:
    """Of tensors that nodes make, by name, each with the axis of its channels: the extremes over all batches.

    The batches are held: give a few.
    """
    stops = {name: node.name for node in model.graph.node for name in node.output if name in axes}
    found: dict[str, ChannelExtremes] = {}
    run = SegmentedRun(model, list(stops.values()), batches, threads)
    for node in run.stops():
        for tensor in set(node.output) & axes.keys():
            arrays = [tensors[tensor] for tensors in run.live]
            others = tuple(i for i in range(arrays[0].ndim) if i != axes[tensor] % arrays[0].ndim)
            low = np.min([array.min(axis=others) for array in arrays], axis=0)
            high = np.max([array.max(axis=others) for array in arrays], axis=0)
            found[tensor] = ChannelExtremes(low.astype(np.float64), high.astype(np.float64))
    return found
