"""The pass over the calibration data: one shard of it, saved on the way, taken up again where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, final

from calibration import METHODS
from calibration.errors import CalibrationError
from calibration.statistics import Origin, Sketches
from calibration.statistics.origin import WHOLE, Shard, graph_digest, merged_shards
from pipeline.errors import DataRejected, RecipeError
from pipeline.files import atomic
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.settings import BEST, CalibrationData

if TYPE_CHECKING:
    import onnx

    from calibration.statistics.collect import Batch


@dataclass(frozen=True)
class Pass:
    """Which part of the data is measured, and where it is saved on the way."""

    threads: int
    shard: Shard = WHOLE
    partial: Path | None = None
    """A file that is there while the pass is unfinished; one of the same graph and data is taken up again."""
    until_tight: str | None = None
    """The method whose ranges decide how many of the samples are gone through, `best` for all; None for all samples."""
    channels: bool = False
    """Whether the extremes of each channel are wanted."""


def measured(
    model: onnx.ModelProto, data: CalibrationData, wanted: Pass, progress: Progress, cancellation: Cancellation
) -> Sketches:
    """Sketches of the prepared model over the shard, complete. Raises what `collect` raises."""
    from calibration.statistics.collect import collect

    origin = _origin(model, data, wanted)
    before = _taken_up(wanted.partial, origin, progress)
    stops = _Stops(data, origin, wanted.until_tight)
    whole = origin.stop - origin.start
    if before.images == whole or stops.enough(before.images, lambda: before):  # what came after it was stopped
        return _complete(before, origin)
    with progress.phase("calibrating", whole) as phase:

        def on_batch(done: int) -> None:
            phase.reach(done)
            cancellation.check()

        def save(sketches: Sketches) -> None:
            if wanted.partial is not None:
                sketches.origin = origin
                wanted.partial.parent.mkdir(parents=True, exist_ok=True)
                with atomic.replacing(wanted.partial) as file:
                    sketches.save(file)

        sketches = collect(
            model,
            stops.batches(origin.start + before.images),
            threads=wanted.threads,
            on_batch=on_batch,
            before=before,
            save=save,
            first=origin.start + before.images,
            samples=0 if wanted.until_tight else origin.samples,
            enough=stops.enough if wanted.until_tight else None,
            channels=wanted.channels,
        )
        save(sketches)  # what comes after may be stopped, too
    return _complete(sketches, origin)


def taken_from(files: Sequence[Path], model: onnx.ModelProto, data: CalibrationData, wanted: Pass) -> Sketches:
    """What `edgestill calibrate` measured, one file a shard, of this model over this data and all that was asked for.

    Raises CalibrationError, DataRejected.
    """
    sketches = merged_shards(files, graph_digest(model))
    origin = sketches.origin
    if origin is None or (origin.data, origin.samples) != (data.digest(), data.samples):
        raise DataRejected(
            f"{files[0]}: was measured on other data than these {data.samples} images; calibrate them again"
        )
    if origin.until_tight not in (None, wanted.until_tight):
        raise DataRejected(
            f"{files[0]}: holds the {sketches.images} of {origin.samples} images that ranges of {origin.until_tight} "
            f"needed; calibrate again with the images and the method that are asked for now"
        )
    if wanted.channels and not origin.channels:
        raise DataRejected(
            f"{files[0]}: has no extremes of channels; calibrate again with them, or do not ask for them"
        )
    return sketches


def _complete(sketches: Sketches, origin: Origin) -> Sketches:
    if origin.until_tight is not None:
        origin = replace(origin, stop=origin.start + sketches.images)
    if sketches.images != origin.stop - origin.start:
        raise DataRejected(f"{sketches.images} images were calibrated, {origin.stop - origin.start} were asked for")
    sketches.origin = origin
    return sketches


@final
class _Stops:
    """Where a pass may end before the last sample."""

    def __init__(self, data: CalibrationData, origin: Origin, until_tight: str | None) -> None:
        from calibration.statistics.sufficiency import marks

        self._data, self._origin = data, origin
        self._methods = tuple(METHODS) if until_tight == BEST else (until_tight or "",)
        self._marks = tuple(marks(data.samples, data.images_a_run)) if until_tight else ()

    def batches(self, first: int) -> Iterator[Batch]:
        """From that sample on; none reaches beyond a mark."""
        edges = (first, *(mark for mark in self._marks if mark > first), self._origin.stop)
        for start, stop in pairwise(edges):
            yield from self._data.part(start, stop)

    def enough(self, images: int, counted: Callable[[], Sketches]) -> bool:
        """Whether so many are enough, which is asked at the marks alone."""
        from calibration.statistics.sufficiency import is_enough

        return images in self._marks and is_enough(counted(), self._methods)


def _origin(model: onnx.ModelProto, data: CalibrationData, wanted: Pass) -> Origin:
    shard = wanted.shard
    try:
        start, stop = shard.bounds(data.samples, data.images_a_run)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return Origin(
        graph_digest(model),
        data.digest(),
        data.samples,
        start,
        stop,
        shard.number,
        shard.of,
        wanted.until_tight,
        wanted.channels,
    )


def _taken_up(partial: Path | None, origin: Origin, progress: Progress) -> Sketches:
    """What an earlier pass over the same has counted, else nothing."""
    if partial is None or not partial.exists():
        return Sketches()
    try:
        before = Sketches.load(partial)
    except CalibrationError as error:
        progress.warn(f"{error}; calibrating from the first sample on")
        return Sketches()
    if before.origin != origin:
        progress.warn(f"{partial}: is of another graph or other data; calibrating from the first sample on")
        return Sketches()
    progress.say(f"  resumed after {before.images} of {origin.stop - origin.start} samples")
    return before
