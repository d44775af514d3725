"""One streaming pass over calibration images: activations in, sketches out, memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.errors import CalibrationError, PoisonedData
from calibration.graph import Graph
from calibration.measured_session import MeasuredSession
from calibration.statistics import Sketch, Sketches
from calibration.workers import Workers

_MASK_OPERATORS = frozenset(
    {"Add", "Where", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat"}
)
"""They keep -inf where it is, or move it; NaN, which others make of it, is poison wherever it is."""


_LARGEST = 1e18
"""Its square is the largest that a float32 holds: beyond it a product overflows, whatever the scale."""


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
    before: Sketches | None = None,
    save: Callable[[Sketches], None] | None = None,
    save_every: int = 32,
) -> Sketches:
    """Runs a prepared model over the batches and keeps a sketch of every float activation, graph inputs included.

    Images run one by one, or in the batches that the graph fixes, each on one of the threads: activations stay in the
    caches, and the sketches do not depend on batches, threads or order. `before` holds what was counted already, which
    is added to; `save` gets all that is counted after every `save_every` batches and when `on_batch` raises, so that a
    pass can go on where it was stopped. `on_batch` gets the number of images so far;
    what it raises passes through, which cancels the pass. The -inf that a mask puts into a softmax is no value. Raises
    PoisonedData naming image and tensor on NaN, any other inf, and magnitudes beyond 1e18, CalibrationError where no
    image came or a batch does not fit, GraphRefused where onnxruntime refuses the graph.
    """
    measurement = _Measurement(model)
    with Workers(threads, measurement.empty, before) as workers:
        images = before.images if before is not None else 0
        for number, batch in enumerate(batches, 1):
            _check_batch(batch, measurement.inputs)
            workers.measure(measurement.add, measurement.parts(batch))
            images += len(batch.ids)
            if save is not None and number % save_every == 0:
                save(workers.merged())
            _report(images, on_batch, save, workers)
        sketches = workers.merged()
    if sketches.images == 0:
        raise CalibrationError("no image to calibrate with; give at least one, better a few hundred")
    return sketches


def _report(
    images: int,
    on_batch: Callable[[int], None] | None,
    save: Callable[[Sketches], None] | None,
    workers: Workers,
) -> None:
    try:
        if on_batch is not None:
            on_batch(images)
    except BaseException:  # whatever stops the pass, Ctrl-C among it, what was counted is kept
        if save is not None:
            save(workers.merged())
        raise


@final
class _Measurement:
    """What one part of a batch adds to the sketches of a graph."""

    def __init__(self, model: ModelProto) -> None:
        graph = Graph(model)
        self.inputs = graph.inputs
        self._measured, self._masking = graph.activations(), _masking(graph)
        computed = [name for name in self._measured if name not in graph.inputs]
        self._session = MeasuredSession(model, computed)
        self._images_a_run = _images_a_run(graph)

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """As many images as the graph takes at least: one, where its batch is dynamic."""
        for start in range(0, len(batch.ids), self._images_a_run):
            rows = slice(start, start + self._images_a_run)
            yield Batch(batch.ids[rows], {name: values[rows] for name, values in batch.feeds.items()})

    def empty(self) -> Sketches:
        """Of no image."""
        return Sketches(0, {name: Sketch() for name in self._measured})

    def add(self, part: Batch, sketches: Sketches) -> None:
        """Runs the images and counts what every tensor holds."""
        inputs = {name: part.feeds[name] for name in self._measured if name in part.feeds}
        _update(sketches, _without_masks(inputs, self._masking), part.ids)  # first: poison is named where it came in
        _update(sketches, _without_masks(_run(self._session, part), self._masking), part.ids)
        sketches.images += len(part.ids)


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
    """What is taken out of a softmax, by -inf or the least float, has no share in a range: it counts as 0."""
    return {
        name: np.where(array < -_LARGEST, np.float32(0), array) if name in masking else array
        for name, array in values.items()
    }


def _passes_a_mask_on(node: NodeProto, masking: set[str]) -> bool:
    return node.op_type in _MASK_OPERATORS and node.output[0] in masking


def _images_a_run(graph: Graph) -> int:
    fixed = {size for name in graph.inputs for size in (graph.shape(name) or ())[:1] if size is not None}
    return max(fixed, default=1)


def _check_batch(batch: Batch, inputs: Sequence[str]) -> None:
    if set(batch.feeds) != set(inputs):
        raise CalibrationError(f"a batch has inputs {sorted(batch.feeds)}, the graph wants {sorted(inputs)}")
    for name, values in batch.feeds.items():
        if values.ndim == 0 or values.shape[0] != len(batch.ids):
            raise CalibrationError(
                f"input {name!r} has shape {values.shape} for {len(batch.ids)} image ids; "
                "images go along the first axis"
            )


def _run(session: MeasuredSession, batch: Batch) -> dict[str, NDArray[np.float32]]:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    try:
        return session.run(batch.feeds)
    except (Fail, InvalidArgument, RuntimeException) as error:
        raise CalibrationError(f"the graph does not run on {_span(batch.ids)}: {error}") from error


def _update(sketches: Sketches, values: Mapping[str, NDArray[np.float32]], ids: Sequence[str]) -> None:
    for name, array in values.items():
        try:
            sketches.tensors[name].update(array)
        except CalibrationError as error:
            raise _poison(name, array, ids) from error
        if max(-sketches.tensors[name].minimum, sketches.tensors[name].maximum) > _LARGEST:
            raise _poison(name, array, ids)


def _poison(tensor: str, values: NDArray[np.float32], ids: Sequence[str]) -> PoisonedData:
    """The error that names the first bad image; where a tensor's rows are not images, all of the batch."""
    rows = values.shape[0] if values.ndim else 0
    if rows and rows % len(ids) == 0:
        per_image = values.reshape(len(ids), -1)
        bad = int(np.flatnonzero(_is_poison(per_image).any(axis=1))[0])
        where, found = f"image {ids[bad]!r}", per_image[bad]
    else:
        where, found = f"one of {_span(ids)}", values.reshape(-1)
    value = found[_is_poison(found)][0]
    return PoisonedData(f"{where} makes tensor {tensor!r} hold {value}; take the image out, or mend it or the network")


def _is_poison(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return ~(np.abs(values) <= _LARGEST)  # NaN is in no order


def _span(ids: Sequence[str]) -> str:
    return f"image {ids[0]!r}" if len(ids) == 1 else f"the images {ids[0]!r} to {ids[-1]!r}"
