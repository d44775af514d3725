"""An onnxruntime session that summarizes tensors while they are in the cache, and hands out no more than that."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.errors import CalibrationError
from calibration.graph import Graph
from calibration.prepare import opset_of
from calibration.statistics.measured_session import MeasurableGraph
from calibration.statistics.never_nan import never_nan
from calibration.statistics.sizes import KnownSizes
from calibration.statistics.summary import COUNTED_WHOLE, Summary, counted_places

_PREFIX = "edgestill:"
_PLACES, _FLAT, _END, _AXIS = (f"{_PREFIX}{name}" for name in ("places", "flat", "end", "axis"))
_FAR = np.iinfo(np.int64).max
_ONE_VALUE = 1 << 40
"""A stride that no tensor is as long as."""
_OPERATOR = {"low": "ReduceMin", "high": "ReduceMax", "sum": "ReduceSum", "size": "Shape", "counted": "Slice"}
"""What makes which part of a summary; the parts of all tensors that have it make one output."""
_SMALL = "small"
"""A part too: all values of tensors that are counted whole, which are summarized here sooner than there."""


@final
class SummarizedSession:
    """Runs a graph that computes, beside each tensor, what a sketch wants of it.

    A large network's activations do not fit into the caches: reading them again when the run is over takes several
    times as long as right after they were written, and as outputs they all stay in memory at once. So the extremes
    and the values to be counted are taken in the graph, which onnxruntime is told to run as soon as it can. What is
    known anyway is not computed: the size of most tensors, and that a sum of products of finite values is no NaN.
    """

    def __init__(self, model: ModelProto, summarized: Sequence[str], whole: Sequence[str]) -> None:
        """One thread a run; several threads may run it at once. Raises GraphRefused where onnxruntime does.

        Of the tensors `whole` all values are handed out, in whatever order. Whoever runs it is to check every
        float tensor of the graph's own, inputs and those that `whole` and `summarized` name, for NaN and magnitudes
        beyond `LARGEST`: where one is, the summaries of tensors that follow it may miss NaN.
        """
        self._whole = tuple(whole)
        self._sizes: dict[tuple[Any, ...], list[int | None]] = {}
        """By the shapes of the inputs, as far as they are known."""
        index = Graph(model)
        self._known = KnownSizes(index, summarized)
        finite = never_nan(index, frozenset((*index.inputs, *summarized)))
        with tempfile.TemporaryDirectory(prefix="edgestill-") as folder:
            graph = MeasurableGraph(model, (*summarized, *whole), Path(folder))
            read, self._whole_names = graph.names[: len(summarized)], graph.names[len(summarized) :]
            self._summarized = dict(zip(summarized, read, strict=True))
            first = {tensor: name for name, tensor in reversed(self._summarized.items())}
            small = [tensor for tensor, name in first.items() if 1 <= self._known.least(name) <= COUNTED_WHOLE]
            large = [tensor for tensor in first if tensor not in small]
            self._first = {tensor: first[tensor] for tensor in (*large, *small)}
            self._of = {
                "low": large,
                "high": large,
                "counted": large,
                "sum": [tensor for tensor in large if self._first[tensor] not in finite],
                "size": [tensor for tensor in large if self._first[tensor] not in self._known],
                _SMALL: small,
            }
            _summarize(graph.model, self._of, tuple(self._first), self._whole_names)
            self._session = graph.opened()

    def run(
        self, feeds: Mapping[str, NDArray[Any]], image: int
    ) -> tuple[dict[str, Summary], dict[str, NDArray[np.float32]]]:
        """Summaries, and the values of the tensors that are wanted whole; the number is that of the first image."""
        shapes = tuple((name, values.shape) for name, values in sorted(feeds.items()))
        if shapes not in self._sizes:
            self._sizes[shapes] = [
                self._known.of(name, feeds) if name in self._known else None for name in self._first.values()
            ]
        told = self._sizes[shapes]
        places = _places(told, image)
        found, whole = self._run(feeds, places)
        if "size" in found:
            by_tensor = dict(zip(self._of["size"], found["size"].tolist(), strict=True))
            sizes = [by_tensor.get(tensor, size) for tensor, size in zip(self._first, told, strict=True)]
            tried, places = places, _places(sizes, image)
            if not np.array_equal(_steps(places), _steps(tried)):  # no run of such images has shown these sizes yet
                found, whole = self._run(feeds, places)
                self._sizes[shapes] = sizes
        summaries = self._summaries(found, dict(zip(self._first, places, strict=True)))
        by_name = {name: summaries[read] for name, read in self._summarized.items()}
        return by_name, dict(zip(self._whole, whole, strict=True))

    def _run(
        self, feeds: Mapping[str, NDArray[Any]], places: Sequence[range]
    ) -> tuple[dict[str, NDArray[Any]], list[Any]]:
        """The parts of the summaries, and what is wanted whole."""
        parts = [part for part, tensors in self._of.items() if tensors]
        names = [f"{_PREFIX}{part}" for part in parts]
        large = len(self._of["counted"])
        inputs = {**feeds, _PLACES: _steps(places[:large])} if large else dict(feeds)
        found = self._session.run([*names, *self._whole_names], inputs) if names or self._whole_names else []
        return dict(zip(parts, found, strict=False)), found[len(parts) :]

    def _summaries(self, found: Mapping[str, NDArray[Any]], places: Mapping[str, range]) -> dict[str, Summary]:
        """By what is read."""
        counted = _divided(found.get("counted", _NONE), [len(places[tensor]) for tensor in self._of["counted"]])
        summaries = {}
        for tensor, values, low, high in self._large(found, counted):
            summaries[tensor] = Summary(low, high, places[tensor].stop, values, places[tensor].step)
        small, lengths = found.get(_SMALL, _NONE), [places[tensor].stop for tensor in self._of[_SMALL]]
        parts, starts = _divided(small, lengths), np.cumsum([0, *lengths], dtype=np.int64)[:-1]
        lows, highs = (ufunc.reduceat(small, starts).tolist() for ufunc in (np.minimum, np.maximum))  # NaN propagates
        for tensor, values, low, high in zip(self._of[_SMALL], parts, lows, highs, strict=True):
            start, step = places[tensor].start, places[tensor].step
            summaries[tensor] = Summary(low, high, values.size, values[start::step], step)
        return summaries

    def _large(
        self, found: Mapping[str, NDArray[Any]], counted: Sequence[NDArray[np.float32]]
    ) -> Iterator[tuple[str, NDArray[np.float32], float, float]]:
        """What is counted, and the extremes. onnxruntime's pass over NaN, its sums do not."""
        tensors = self._of["counted"]
        finite = np.isfinite(found["sum"]).tolist() if "sum" in found else []
        unclear = {tensor for tensor, each in zip(self._of["sum"], finite, strict=True) if not each}
        extremes = ([], []) if not tensors else (found["low"].tolist(), found["high"].tolist())
        for tensor, values, low, high in zip(tensors, counted, *extremes, strict=True):
            yield (tensor, values, math.nan, math.nan) if tensor in unclear else (tensor, values, low, high)


_NONE = np.zeros(0, np.float32)


def _places(sizes: Sequence[int | None], image: int) -> list[range]:
    return [range(0, 0, _ONE_VALUE) if size is None else counted_places(size, image) for size in sizes]


def _steps(places: Sequence[range]) -> NDArray[np.int64]:
    """(2 * tensors,): the first place of each tensor, and how far it is from one to the next."""
    return np.array([[each.start, each.step] for each in places], np.int64).reshape(-1)


def _divided(values: NDArray[np.float32], lengths: Sequence[int]) -> list[NDArray[np.float32]]:
    """One after another."""
    stops = list(accumulate(lengths, initial=0))
    if stops[-1] != values.size:
        raise CalibrationError(
            f"the graph's tensors have other sizes than its shapes say ({values.size} values for {stops[-1]}); "
            "export it again, or run onnx.shape_inference on it"
        )
    return [values[start:stop] for start, stop in pairwise(stops)]


def _summarize(model: ModelProto, of: Mapping[str, Sequence[str]], names: Sequence[str], whole: Sequence[str]) -> None:
    """Adds the nodes right after those that write the tensors, and makes the graph's outputs what they compute."""
    graph = model.graph
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(whole))
    places = {name: place for place, name in enumerate(names)}
    if not places:
        return
    for name, value in ((_FLAT, -1), (_END, _FAR), (_AXIS, 0)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    parts = {name: [part for part, tensors in of.items() if name in tensors] for name in places}
    nodes = []
    if counted := [places[name] for name in of["counted"]]:
        graph.input.append(helper.make_tensor_value_info(_PLACES, TensorProto.INT64, [2 * len(counted)]))
        nodes.append(_split(counted, opset_of(model)))
    written = {name for node in graph.node for name in node.output}
    for name in (name for name in places if name not in written):  # what onnxruntime has computed beforehand
        nodes.extend(_summarizing(name, places[name], parts[name]))
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            if name in places:
                nodes.extend(_summarizing(name, places[name], parts[name]))
    for part, tensors in of.items():
        if tensors:
            prefix = _FLAT if part == _SMALL else f"{_PREFIX}{part}"
            pieces = [f"{prefix}{places[name]}" for name in tensors]
            nodes.append(helper.make_node("Concat", pieces, [f"{_PREFIX}{part}"], axis=0))
            data_type = TensorProto.INT64 if part == "size" else TensorProto.FLOAT
            graph.output.append(helper.make_tensor_value_info(f"{_PREFIX}{part}", data_type, None))
    del graph.node[:]
    graph.node.extend(nodes)


def _split(places: Sequence[int], opset: int) -> NodeProto:
    """What tells the places that are counted, one by one."""
    outputs = [name for place in places for name in _counted_from(place)]
    each = helper.make_node("Split", [_PLACES], outputs, axis=0)
    if opset >= 18:
        each.attribute.append(helper.make_attribute("num_outputs", len(outputs)))
    return each


def _counted_from(place: int) -> tuple[str, str]:
    """The names of a tensor's first place, and of how far it is from one to the next."""
    return f"{_PREFIX}begin{place}", f"{_PREFIX}stride{place}"


def _summarizing(tensor: str, place: int, parts: Sequence[str]) -> Iterator[NodeProto]:
    flat = f"{_FLAT}{place}"
    yield helper.make_node("Reshape", [tensor, _FLAT], [flat])
    for part in (part for part in parts if part != _SMALL):
        begin, stride = _counted_from(place)
        inputs = [flat, begin, _END, _AXIS, stride] if part == "counted" else [flat]
        yield helper.make_node(_OPERATOR[part], inputs, [f"{_PREFIX}{part}{place}"])
