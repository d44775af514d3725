"""`edgestill calibrate`: the statistics of a graph's activations, or a shard of them, in a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from calibration.counting import counted
from calibration.statistics.origin import Shard
from pipeline.commands.outcome import Outcome
from pipeline.errors import RecipeError
from pipeline.files import atomic
from pipeline.files.workspace import disk_errors_explained
from pipeline.process.cancellation import Cancellation
from pipeline.process.progress import Progress
from pipeline.quantizing.calibration_pass import Pass, measured
from pipeline.quantizing.inputs.calibration_images import asked_for, images_from_text
from pipeline.quantizing.inputs.calibration_inputs import Preprocessing, calibration_data
from pipeline.quantizing.quantization import prepared_graph
from pipeline.quantizing.quantization_errors import quantization_errors_explained
from pipeline.quantizing.settings import DEFAULT_METHOD, CalibrationData, checked_method


@dataclass(frozen=True)
class CalibrateRequest:
    """What the command line asked for."""

    model: Path
    data: Path
    shard: str
    """Such as 2/8."""
    out: Path | None
    preprocess: Preprocessing
    batch_size: int
    """Where the graph does not fix it."""
    threads: int
    images: str = "all"
    """How many of the data: all, auto or a number."""
    method: str = DEFAULT_METHOD
    """Whose ranges are to be tight, where that decides."""
    channel_extremes: bool = False


def calibrate(request: CalibrateRequest, progress: Progress, cancellation: Cancellation) -> Outcome:
    """Writes the file of sketches; `<file>.partial` is there while it is unfinished, and is taken up again."""
    shard = shard_from_text(request.shard)
    try:
        images, method = images_from_text(request.images), checked_method(request.method)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if images == "auto":
        check_whole(shard, "--images auto")
    data, _ = calibration_data(request.model, request.data, request.preprocess, request.batch_size)
    data = asked_for(data, images, "--images")
    file = request.out or request.model.with_name(sketches_name(request.model.stem, shard))
    until_tight = method if images == "auto" else None
    wanted = Pass(request.threads, shard, until_tight=until_tight, channels=request.channel_extremes)
    return sketched(request.model, data, wanted, file, progress, cancellation)


def shard_from_text(text: str) -> Shard:
    """Of `--shard`; raises RecipeError."""
    try:
        return Shard.from_text(text)
    except ValueError as error:
        raise RecipeError(f"--shard: {error}") from error


def check_whole(shard: Shard, asked: str) -> None:
    """Raises RecipeError where a shard would have to decide when all of them have seen enough."""
    if shard.of > 1:
        raise RecipeError(f"{asked} looks at all images that came, and a shard sees its own; leave one of them out")


def sketches_name(stem: str, shard: Shard) -> str:
    """Of the file, where none is named."""
    return f"{stem}{'' if shard.of == 1 else f'.{shard.number}-of-{shard.of}'}.sketches.npz"


def sketched(
    graph: Path, data: CalibrationData, wanted: Pass, file: Path, progress: Progress, cancellation: Cancellation
) -> Outcome:
    """One pass over the shard of the data, written whole."""
    with disk_errors_explained(file.parent), quantization_errors_explained(graph.name):
        model = prepared_graph(graph)
        wanted = replace(wanted, partial=_partial(file))
        sketches = measured(model, data, wanted, progress, cancellation)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(file) as temporary:
            sketches.save(temporary)
        _partial(file).unlink(missing_ok=True)
    document = {
        "model": str(graph),
        "shard": f"{wanted.shard.number}/{wanted.shard.of}",
        "images": sketches.images,
        "samples": data.samples,
        "tensors": len(sketches.tensors),
        "file": str(file),
    }
    measured_of = f"{sketches.images} of {counted(data.samples, 'sample')}, {counted(len(sketches.tensors), 'tensor')}"
    line = f"{measured_of}; wrote {file}"
    return Outcome(document, lambda console: console.print(line, markup=False, soft_wrap=True))


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")
