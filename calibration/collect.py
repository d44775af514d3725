"""One streaming pass over calibration images: activations in, sketches out, memory that does not grow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from calibration.errors import CalibrationError, GraphRefused, PoisonedData
from calibration.graph import Graph
from calibration.statistics import Sketch, Sketches


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

    `on_batch` gets the number of images so far; what it raises passes through, which cancels the pass. Raises
    PoisonedData naming image and tensor on NaN or inf, CalibrationError where no image came or a batch does not fit,
    GraphRefused where onnxruntime does not take the graph.
    """
    graph = Graph(model)
    measured = graph.activations()
    computed = [name for name in measured if name not in graph.inputs]
    session = _session(_with_outputs(model, computed), threads)
    sketches = Sketches(0, {name: Sketch() for name in measured})
    for batch in batches:
        _check_batch(batch, graph.inputs)
        inputs = {name: batch.feeds[name] for name in measured if name in batch.feeds}
        _update(sketches, inputs, batch.ids)  # before the run: poison is named where it came in
        outputs = _run(session, computed, batch)
        _update(sketches, dict(zip(computed, outputs, strict=True)), batch.ids)
        sketches.images += len(batch.ids)
        if on_batch is not None:
            on_batch(sketches.images)
    if sketches.images == 0:
        raise CalibrationError("no image to calibrate with; give at least one, better a few hundred")
    return sketches


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
