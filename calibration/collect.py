"""One streaming pass over calibration images: activations in, sketches out, memory that does not grow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from calibration.errors import CalibrationError, GraphRefused, PoisonedData
from calibration.graph import Graph
from calibration.statistics import Sketch, Sketches

_MASK_OPERATORS = frozenset(
    {"Add", "Where", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat"}
)
"""They keep -inf where it is, or move it; NaN, which others make of it, is poison wherever it is."""


@dataclass(frozen=True)
class Batch:
    """Some images: the id of each, and one array per graph input with the images along its first axis."""

    ids: Sequence[str]
    feeds: Mapping[str, NDArray[Any]]


def collect(
    model: ModelProto,
    batches: Iterable[Batch],
    *,
    threads: int,
    on_batch: Callable[[int], None] | None = None,
) -> Sketches:
    """Runs a prepared model over the batches and keeps a sketch of every float activation, graph inputs included.

    `on_batch` gets the number of images so far; what it raises passes through, which cancels the pass. The -inf that a
    mask puts into a softmax is no value. Raises PoisonedData naming image and tensor on NaN or any other inf,
    CalibrationError where no image came or a batch does not fit, GraphRefused where onnxruntime refuses the graph.
    """
    graph = Graph(model)
    measured, masking = graph.activations(), _masking(graph)
    computed = [name for name in measured if name not in graph.inputs]
    session = _session(_with_outputs(model, computed), threads)
    sketches = Sketches(0, {name: Sketch() for name in measured})
    for batch in batches:
        _check_batch(batch, graph.inputs)
        inputs = _without_masks({name: batch.feeds[name] for name in measured if name in batch.feeds}, masking)
        _update(sketches, inputs, batch.ids)  # before the run: poison is named where it came in
        outputs = dict(zip(computed, _run(session, computed, batch), strict=True))
        _update(sketches, _without_masks(outputs, masking), batch.ids)
        sketches.images += len(batch.ids)
        if on_batch is not None:
            on_batch(sketches.images)
    if sketches.images == 0:
        raise CalibrationError("no image to calibrate with; give at least one, better a few hundred")
    return sketches


def _masking(graph: Graph) -> frozenset[str]:
    """Tensors whose every use ends in a Softmax, where -inf means `not this one`, as attention masks do."""
    found: set[str] = set()
    for node in reversed(graph.nodes):  # readers come before what they read
        for name in node.input:
            edges = graph.readers[name] if name else ()
            uses = (edge.node.op_type == "Softmax" or _passes_a_mask_on(edge.node, found) for edge in edges)
            if edges and name not in graph.outputs and all(uses):
                found.add(name)
    return frozenset(found)


def _without_masks(
    values: Mapping[str, NDArray[np.float32]], masking: frozenset[str]
) -> dict[str, NDArray[np.float32]]:
    """What is taken out of a softmax has no share in a range: it counts as 0."""
    return {
        name: np.where(array == -np.inf, np.float32(0), array) if name in masking else array
        for name, array in values.items()
    }


def _passes_a_mask_on(node: NodeProto, masking: set[str]) -> bool:
    return node.op_type in _MASK_OPERATORS and node.output[0] in masking


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    extended = ModelProto()
    extended.CopyFrom(model)
    already = {output.name for output in model.graph.output}
    extended.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in already
    )
    return extended


def _session(model: ModelProto, threads: int) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # ALL would lay tensors out for this machine's caches, and undo it for each of our outputs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise GraphRefused(f"onnxruntime cannot load the graph to measure it: {error}") from error


def _check_batch(batch: Batch, inputs: Sequence[str]) -> None:
    if set(batch.feeds) != set(inputs):
        raise CalibrationError(f"a batch has inputs {sorted(batch.feeds)}, the graph wants {sorted(inputs)}")
    for name, values in batch.feeds.items():
        if values.ndim == 0 or values.shape[0] != len(batch.ids):
            raise CalibrationError(
                f"input {name!r} has shape {values.shape} for {len(batch.ids)} image ids; "
                "images go along the first axis"
            )


def _run(session: Any, names: Sequence[str], batch: Batch) -> list[NDArray[np.float32]]:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    try:
        outputs: list[NDArray[np.float32]] = session.run(list(names), dict(batch.feeds))
    except (Fail, InvalidArgument, RuntimeException) as error:
        raise CalibrationError(f"the graph does not run on images {_span(batch.ids)}: {error}") from error
    return outputs


def _update(sketches: Sketches, values: Mapping[str, NDArray[np.float32]], ids: Sequence[str]) -> None:
    for name, array in values.items():
        try:
            sketches.tensors[name].update(array)
        except CalibrationError as error:
            raise _poison(name, array, ids) from error


def _poison(tensor: str, values: NDArray[np.float32], ids: Sequence[str]) -> PoisonedData:
    """The error that names the first bad image; where a tensor's rows are not images, all of the batch."""
    rows = values.shape[0] if values.ndim else 0
    if rows and rows % len(ids) == 0:
        per_image = values.reshape(len(ids), -1)
        bad = int(np.flatnonzero(~np.isfinite(per_image).all(axis=1))[0])
        where, found = f"image {ids[bad]!r}", per_image[bad]
    else:
        where, found = f"one of the images {_span(ids)}", values.reshape(-1)
    value = found[~np.isfinite(found)][0]
    return PoisonedData(f"{where} makes tensor {tensor!r} hold {value}; take the image out, or mend it or the network")


def _span(ids: Sequence[str]) -> str:
    return f"{ids[0]!r} to {ids[-1]!r}" if ids else "(none)"
