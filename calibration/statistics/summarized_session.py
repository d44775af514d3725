"""An onnxruntime session that summarizes tensors while they are in the cache, and hands out no more than that."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.prepare import opset_of
from calibration.statistics.measured_session import MeasurableGraph
from calibration.statistics.summary import Summary, stride_for

_PREFIX = "edgestill:"
_STRIDES, _FLAT, _BEGIN, _END, _AXIS = (f"{_PREFIX}{name}" for name in ("strides", "flat", "begin", "end", "axis"))
_FAR = np.iinfo(np.int64).max
_ONE_VALUE = 1 << 40
"""A stride that no tensor is as long as."""
_OUTPUTS = (
    ("low", "ReduceMin", TensorProto.FLOAT),
    ("high", "ReduceMax", TensorProto.FLOAT),
    ("sum", "ReduceSum", TensorProto.FLOAT),
    ("size", "Shape", TensorProto.INT64),
    ("counted", "Slice", TensorProto.FLOAT),
)
"""Of each tensor, by operator; those of all tensors make one output."""


@final
class SummarizedSession:
    """Runs a graph that computes, beside each tensor, what a sketch wants of it.

    A large network's activations do not fit into the caches: reading them again when the run is over takes several
    times as long as right after they were written, and as outputs they all stay in memory at once. So the extremes
    and the values to be counted are taken in the graph, which onnxruntime is told to run as soon as it can.
    """

    def __init__(self, model: ModelProto, summarized: Sequence[str], whole: Sequence[str]) -> None:
        """One thread a run; several threads may run it at once. Raises GraphRefused where onnxruntime does.

        Of the tensors `whole` all values are handed out, in whatever order.
        """
        self._whole, self._strides = tuple(whole), dict[tuple[Any, ...], NDArray[np.int64]]()
        with tempfile.TemporaryDirectory(prefix="edgestill-") as folder:
            graph = MeasurableGraph(model, (*summarized, *whole), Path(folder))
            read, self._whole_names = graph.names[: len(summarized)], graph.names[len(summarized) :]
            self._places = {name: place for place, name in enumerate(dict.fromkeys(read))}
            self._summarized = dict(zip(summarized, read, strict=True))
            _summarize(graph.model, tuple(self._places), self._whole_names)
            self._session = graph.opened()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Summary], dict[str, NDArray[np.float32]]]:
        """Summaries, and the values of the tensors that are wanted whole."""
        shapes = tuple((name, values.shape) for name, values in sorted(feeds.items()))
        if shapes not in self._strides:
            self._strides[shapes] = self._strides_for(feeds)
        strides = self._strides[shapes]
        summaries, whole = self._run(feeds, strides)
        found = list(_summaries(summaries, strides)) if summaries else []
        by_name = {name: found[self._places[read]] for name, read in self._summarized.items()}
        return by_name, dict(zip(self._whole, whole, strict=True))

    def _strides_for(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """How large the tensors are for inputs of these shapes takes a run to see."""
        summaries, _ = self._run(feeds, np.full(len(self._places), _ONE_VALUE))
        sizes = summaries[3] if summaries else np.zeros(0, np.int64)
        return np.array([stride_for(size) for size in sizes.tolist()], np.int64)

    def _run(self, feeds: Mapping[str, NDArray[Any]], strides: NDArray[np.int64]) -> tuple[list[Any], list[Any]]:
        names = [f"{_PREFIX}{name}" for name, _, _ in _OUTPUTS] if self._places else []
        inputs = {**feeds, _STRIDES: strides} if self._places else dict(feeds)
        found = self._session.run([*names, *self._whole_names], inputs) if names or self._whole_names else []
        return found[: len(names)], found[len(names) :]


def _summaries(outputs: Sequence[NDArray[Any]], strides: NDArray[np.int64]) -> Iterator[Summary]:
    """In the order of the tensors. onnxruntime's extremes pass over NaN, its sums do not."""
    lows, highs, sums, sizes, counted = outputs
    columns = (values.tolist() for values in (lows, highs, np.isfinite(sums), sizes, strides))
    start = 0
    for low, high, finite, size, stride in zip(*columns, strict=True):
        stop = start - (-size // stride)
        ends = (low, high) if finite else (math.nan, math.nan)
        yield Summary(ends[0], ends[1], size, counted[start:stop], stride)
        start = stop


def _summarize(model: ModelProto, tensors: Sequence[str], whole: Sequence[str]) -> None:
    """Adds the nodes right after those that write the tensors, and makes the graph's outputs what they compute."""
    graph = model.graph
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(whole))
    if not tensors:
        return
    graph.input.append(helper.make_tensor_value_info(_STRIDES, TensorProto.INT64, [len(tensors)]))
    for name, value in ((_FLAT, -1), (_BEGIN, 0), (_END, _FAR), (_AXIS, 0)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    places = {name: place for place, name in enumerate(tensors)}
    nodes = [_split(len(tensors), opset_of(model))]
    written = {name for node in graph.node for name in node.output}
    for name in (name for name in tensors if name not in written):  # what onnxruntime has computed beforehand
        nodes.extend(_summarizing(name, places[name]))
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            if name in places:
                nodes.extend(_summarizing(name, places[name]))
    for name, _, data_type in _OUTPUTS:
        parts = [f"{_PREFIX}{name}{place}" for place in range(len(tensors))]
        nodes.append(helper.make_node("Concat", parts, [f"{_PREFIX}{name}"], axis=0))
        graph.output.append(helper.make_tensor_value_info(f"{_PREFIX}{name}", data_type, None))
    del graph.node[:]
    graph.node.extend(nodes)


def _split(tensors: int, opset: int) -> NodeProto:
    """The strides, one by one."""
    each = helper.make_node("Split", [_STRIDES], [f"{_STRIDES}{place}" for place in range(tensors)], axis=0)
    if opset >= 18:
        each.attribute.append(helper.make_attribute("num_outputs", tensors))
    return each


def _summarizing(tensor: str, place: int) -> Iterator[NodeProto]:
    flat = f"{_FLAT}{place}"
    yield helper.make_node("Reshape", [tensor, _FLAT], [flat])
    for name, operator, _ in _OUTPUTS:
        inputs = [flat, _BEGIN, _END, _AXIS, f"{_STRIDES}{place}"] if operator == "Slice" else [flat]
        yield helper.make_node(operator, inputs, [f"{_PREFIX}{name}{place}"])
