"""The pass over the calibration data: one shard of it, saved on the way, taken up again where it was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import CalibrationError
from calibration.origin import WHOLE, Shard, graph_digest
from calibration.statistics import Origin, Sketches
from pipeline import atomic
from pipeline.cancellation import Cancellation
from pipeline.errors import DataRejected, RecipeError
from pipeline.progress import Progress
from pipeline.quantization_settings import CalibrationData

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Pass:
    """Which part of the data is measured, and where it is saved on the way."""

    threads: int
    shard: Shard = WHOLE
    partial: Path | None = None
    """A file that is there while the pass is unfinished; one of the same graph and data is taken up again."""


def measured(
    model: onnx.ModelProto, data: CalibrationData, wanted: Pass, progress: Progress, cancellation: Cancellation
) -> Sketches:
    """Sketches of the prepared model over the shard, complete. Raises what `calibration.collect.collect` raises."""
    from calibration.collect import collect

    origin = _origin(model, data, wanted.shard)
    before = _taken_up(wanted.partial, origin, progress)
    with progress.phase("calibrating", origin.stop - origin.start) as phase:

        def on_batch(done: int) -> None:
            phase.reach(done)
            cancellation.check()

        def save(sketches: Sketches) -> None:
            if wanted.partial is not None:
                sketches.origin = origin
                wanted.partial.parent.mkdir(parents=True, exist_ok=True)
                with atomic.replacing(wanted.partial) as file:
                    sketches.save(file)

        first = origin.start + before.images
        sketches = collect(
            model,
            data.part(first, origin.stop),
            threads=wanted.threads,
            on_batch=on_batch,
            before=before,
            save=save,
            first=first,
            samples=origin.samples,
        )
    if sketches.images != origin.stop - origin.start:
        raise DataRejected(f"{sketches.images} images were calibrated, {origin.stop - origin.start} were asked for")
    sketches.origin = origin
    return sketches


def _origin(model: onnx.ModelProto, data: CalibrationData, shard: Shard) -> Origin:
    try:
        start, stop = shard.bounds(data.samples, data.images_a_run)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return Origin(graph_digest(model), data.digest(), data.samples, start, stop, shard.number, shard.of)


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
