"""An onnxruntime session that gives the value of every measured tensor, at little more than the plain graph's cost."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from calibration.errors import GraphRefused
from calibration.external_data import is_large, session_of
from calibration.graph import Graph

_BLOCKED_DOMAIN = "com.microsoft.nchwc"
_BLOCK_SIZES = (16, 8)
"""Channels that onnxruntime keeps side by side: 16 where the CPU has AVX-512, 8 elsewhere."""


@final
class MeasuredSession:
    """Runs a graph and hands out its tensors, some of them with their values in another order.

    onnxruntime keeps activations in blocks of channels and rearranges each one that leaves the graph, which costs a
    small network more than its arithmetic. Statistics do not depend on the order of values, so the graph is optimized
    once and written out, and where a tensor is rearranged for us alone we take it as it was before.
    """

    def __init__(self, model: ModelProto, tensors: Sequence[str]) -> None:
        """One thread a run; several threads may run it at once. Raises GraphRefused where onnxruntime does."""
        self._tensors = tuple(tensors)
        with tempfile.TemporaryDirectory(prefix="edgestill-") as folder:
            graph = MeasurableGraph(model, self._tensors, Path(folder))
            self._session, self._names = graph.opened(), graph.names

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The measured tensors by name, each with all of its values and none else."""
        return dict(zip(self._tensors, self._session.run(self._names, dict(feeds)), strict=True))


@final
class MeasurableGraph:
    """A graph whose outputs are the tensors that are to be measured; more can be computed from them."""

    def __init__(self, model: ModelProto, tensors: tuple[str, ...], folder: Path) -> None:
        """Its files are in the folder until it is opened. Raises GraphRefused where onnxruntime refuses the model."""
        self.model, self.names = _with_outputs(model, tensors), list(tensors)
        """`names` are the tensors of `model` that stand for those asked for."""
        self._written: Path | None = None
        if not is_large(model):  # written out, it would take its size again, on the disk and in memory
            self._optimize(folder / "optimized.onnx")

    def _optimize(self, path: Path) -> None:
        options = _options()
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.disable_prepacking", "1")  # it is written, never run
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.weights")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        _session(self.model, options, beside=True)
        self.model = onnx.load(path, load_external_data=False)
        instead = _unordered(self.model)
        self.names = [instead.get(name, name) for name in self.names]
        _set_outputs(self.model, self.names)
        self._written = path

    def opened(self) -> Any:
        """A session of the graph as it is now."""
        import onnxruntime

        options = _options()
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # what reads a tensor runs right after it
        if self._written is None:
            return _session(self.model, options)
        onnx.save(self.model, self._written)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _session(self._written, options)


def _options() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _session(source: ModelProto | Path, options: Any, *, beside: bool = False) -> Any:
    import onnxruntime

    try:
        if isinstance(source, ModelProto):
            return session_of(source, options, beside=beside)
        return onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise GraphRefused(f"onnxruntime cannot load the graph to measure it: {error}") from error


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    extended = ModelProto()
    extended.CopyFrom(model)
    already = {output.name for output in model.graph.output}
    extended.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in already
    )
    return extended


def _unordered(optimized: ModelProto) -> dict[str, str]:
    """Of each output that is only the rearrangement of a tensor in whole blocks: that tensor."""
    block = _block_size(optimized)
    outputs = {output.name for output in optimized.graph.output}
    return {
        node.output[0]: node.input[0]
        for node in optimized.graph.node
        if node.op_type == "ReorderOutput" and node.output[0] in outputs and _channels(node) % block == 0
    }


def _channels(node: NodeProto) -> int:
    return next(int(item.i) for item in node.attribute if item.name == "channels")


def _block_size(optimized: ModelProto) -> int:
    """The largest that divides the output channels of all blocked convolutions: they are padded to whole blocks."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in optimized.graph.initializer}
    channels = [
        shapes[node.input[1]][0]
        for node in optimized.graph.node
        if node.domain == _BLOCKED_DOMAIN and node.op_type == "Conv"
    ]
    return next((size for size in _BLOCK_SIZES if all(count % size == 0 for count in channels)), _BLOCK_SIZES[-1])


def _set_outputs(optimized: ModelProto, names: Sequence[str]) -> None:
    """Makes these the graph's outputs, and takes out the nodes that nobody reads any more."""
    graph = optimized.graph
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(names))
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update((*names, *Graph(optimized).captured))
    for node in [node for node in graph.node if node.op_type == "ReorderOutput" and not readers[node.output[0]]]:
        graph.node.remove(node)
