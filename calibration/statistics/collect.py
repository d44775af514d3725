"""One streaming pass over calibration images: activations in, sketches out, memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from calibration.errors import CalibrationError
from calibration.graph import Graph
from calibration.statistics import Sketch, Sketches
from calibration.statistics.channels import ChannelSession
from calibration.statistics.extremes import Image, extremes_of
from calibration.statistics.measured_session import MeasuredSession
from calibration.statistics.poison import LARGEST, Repeats, named, poison, refuse_blank
from calibration.statistics.seen import Seen
from calibration.statistics.summarized_session import SummarizedSession
from calibration.statistics.summary import Summary, counted_places, summary_of
from calibration.statistics.workers import Workers

_MASK_OPERATORS = frozenset(
    {"Add", "Where", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat"}
)
"""They keep -inf where it is, or move it; NaN, which others make of it, is poison wherever it is."""


@dataclass(frozen=True)
class Batch:
    """Some images: the id of each, and one array per graph input with the images along its first axis.

    An array of shape () is one value that all images share.
    """

    ids: Sequence[str]
    feeds: Mapping[str, NDArray[Any]]

    def rows(self, rows: slice) -> Batch:
        """Some of them."""
        feeds = {name: values[rows] if values.ndim else values for name, values in self.feeds.items()}
        return Batch(self.ids[rows], feeds)


@dataclass(frozen=True)
class _Part:
    """The images of one run of the graph."""

    images: tuple[Image, ...]
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
    first: int = 0,
    samples: int = 0,
    enough: Callable[[int, Callable[[], Sketches]], bool] | None = None,
    channels: bool = False,
) -> Sketches:
    """Runs a prepared model over the batches and keeps a sketch of every float activation, graph inputs included.

    Images run one by one, or in the batches that the graph fixes, each on one of the threads: activations stay in the
    caches, and the sketches do not depend on batches, threads or order. `first` is the number of the batches' first
    image in all of the data, of which there are `samples`, where that is known. `before` holds what was counted
    already, which is added to; `save` gets all that is counted after every `save_every` batches and when `on_batch`
    raises, so that a pass can go on where it was stopped. `on_batch` gets the number of images so far; what it raises
    passes through, which cancels the pass. `enough` gets it too, with what gives all that is counted, and ends the
    pass where it says so. With `channels` each image runs twice, for the extremes of
    each channel. The -inf that a mask puts into a softmax is no value.

    Raises PoisonedData naming image and tensor on NaN, any other inf, magnitudes beyond 1e18, blank images, and images
    that are all the same; CalibrationError where no image came or a batch does not fit; GraphRefused where onnxruntime
    refuses the graph.
    """
    measurement = _Measurement(model, channels)
    with Workers(threads, measurement.empty(), before, samples) as workers:
        images = before.images if before is not None else 0
        for number, batch in enumerate(batches, 1):
            _check_batch(batch, measurement.shared)
            stop = first + len(batch.ids)
            workers.measure(measurement.see, measurement.parts(batch, first), stop)
            images, first = images + len(batch.ids), stop
            if save is not None and number % save_every == 0:
                save(workers.merged())
            _report(images, on_batch, save, workers)
            if enough is not None and enough(images, workers.merged):
                break
        measurement.repeats.refuse()
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
    """What the images of one part of a batch show of a graph's tensors."""

    def __init__(self, model: ModelProto, channels: bool) -> None:
        graph = Graph(model)
        self._channels = ChannelSession(model) if channels else None
        self.shared = {name: graph.shape(name) == () for name in graph.inputs}
        self.repeats = Repeats()
        self._measured, self._masking = graph.activations(), _masking(graph)
        self._images_a_run = _images_a_run(graph)
        computed = [name for name in self._measured if name not in graph.inputs]
        whole = [name for name in computed if name in self._masking or self._images_a_run > 1]
        self._model, self._computed = model, tuple(computed)
        self._session = SummarizedSession(model, [name for name in computed if name not in whole], whole)

    def parts(self, batch: Batch, first: int) -> Iterator[_Part]:
        """As many images as the graph takes at least: one, where its batch is dynamic; `first` numbers them."""
        for start in range(0, len(batch.ids), self._images_a_run):
            run = batch.rows(slice(start, start + self._images_a_run))
            images = tuple(Image(first + start + place, name) for place, name in enumerate(run.ids))
            yield _Part(images, run.feeds)

    def empty(self) -> Sketches:
        """Of no image."""
        return Sketches(0, {name: Sketch() for name in self._measured})

    def see(self, part: _Part) -> Seen:
        """Runs the images and takes what every tensor shows."""
        seen = Seen(part.images, {}, {}, {})
        for name in (name for name in self._measured if name in part.feeds):  # poison is named where it came in
            self._look(seen, name, part.feeds[name])
            refuse_blank(name, part.feeds[name], part.images)
        self.repeats.see(part.feeds)
        summaries, whole = _run(self._session, part)
        for name in self._computed:
            if name in whole:
                self._look(seen, name, whole[name])
            else:
                seen.summaries[name] = summary = summaries[name]
                if not summary.size:
                    del seen.summaries[name]
                elif not (summary.high <= LARGEST and summary.low >= -LARGEST):  # NaN is in no order
                    values = MeasuredSession(self._model, self._computed).run(part.feeds)[name]
                    raise poison(name, values, part.images)
        if self._channels is not None:
            found = self._channels.run(part.feeds).items()
            seen.channels.update({name: each for name, each in found if name not in self._masking})
        return seen

    def _look(self, seen: Seen, name: str, values: NDArray[np.float32]) -> None:
        """At all values of a tensor."""
        if not values.size:
            return
        masked = 0
        if name in self._masking:  # what is taken out of a softmax has no share in a range: it counts as 0
            masks = values < -LARGEST
            masked, values = int(np.count_nonzero(masks)), np.where(masks, np.float32(0), values)
        summary = summary_of(values, counted_places(values.size, seen.first), masked)
        if not (summary.high <= LARGEST and summary.low >= -LARGEST):
            raise poison(name, values, seen.images)
        seen.summaries[name] = summary
        if len(seen.images) > 1:
            seen.extremes[name] = tuple(extremes_of(values, seen.images, summary.low, summary.high))


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


def _passes_a_mask_on(node: NodeProto, masking: set[str]) -> bool:
    return node.op_type in _MASK_OPERATORS and node.output[0] in masking


def _images_a_run(graph: Graph) -> int:
    fixed = {size for name in graph.inputs for size in (graph.shape(name) or ())[:1] if size is not None}
    return max(fixed, default=1)


def _check_batch(batch: Batch, inputs: Mapping[str, bool]) -> None:
    """`inputs` says of each whether it is one value for all images."""
    if set(batch.feeds) != set(inputs):
        raise CalibrationError(f"a batch has inputs {sorted(batch.feeds)}, the graph wants {sorted(inputs)}")
    for name, values in batch.feeds.items():
        if values.shape[:1] != (() if inputs[name] else (len(batch.ids),)):
            raise CalibrationError(
                f"input {name!r} has shape {values.shape} for {len(batch.ids)} image ids; "
                "images go along the first axis"
            )


def _run(session: SummarizedSession, part: _Part) -> tuple[dict[str, Summary], dict[str, NDArray[np.float32]]]:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    try:
        return session.run(part.feeds, part.images[0].index)
    except (Fail, InvalidArgument, RuntimeException) as error:
        hint = "".join(_channels_last(name, values) for name, values in part.feeds.items())
        raise CalibrationError(f"the graph does not run on {named(part.images)}: {error}{hint}") from error


def _channels_last(name: str, values: NDArray[Any]) -> str:
    """A hint where the shape is that of images with their channels last."""
    if values.ndim != 4 or values.shape[3] not in (1, 3, 4) or values.shape[1] <= 4:
        return ""
    return (
        f"\ninput {name!r} has shape {values.shape}, channels last (NHWC) as it looks; where the graph takes them "
        "first, save it .transpose(0, 3, 1, 2)"
    )
